package disktest_test

import (
	"fmt"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// A process that ends at each of its operations.
func Example() {
	process := func(f *disktest.Folder) error {
		file, err := f.Create("a")
		if err != nil {
			return err
		}
		_, err = file.Write([]byte("data"))
		return err
	}
	for k := 1; ; k++ {
		f := disktest.New()
		f.FailFrom(k, disktest.ErrCrashed)
		err := process(f)
		left, there := f.Crash(disktest.Kill()).Bytes("a")
		fmt.Printf("%q %v, %v\n", left, there, err)
		if err == nil {
			return
		}
	}
	// Output:
	// "" false, create a: disktest: crashed
	// "da" true, write a: disktest: crashed
	// "data" true, <nil>
}
