package disk_test

import (
	"fmt"
	"os"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// A file that is there whole or not at all, also after a power cut.
func Example() {
	path, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(path)
	dir, err := disk.Open(path)
	if err != nil {
		panic(err)
	}
	defer dir.Close()
	fmt.Println(replace(dir, "settings", []byte("whole")))
	// Output: <nil>
}

func replace(folder disk.Folder, name string, data []byte) error {
	file, err := folder.Create(name + ".new")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := folder.Rename(name+".new", name); err != nil {
		return err
	}
	return folder.Sync(".")
}
