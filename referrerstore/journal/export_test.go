package journal

import "encoding/binary"

// LaterVersion changes the version in the header of a file, with the checksum that
// belongs to it.
func LaterVersion(file []byte) {
	file[len(magic)]++
	s := salted(file[len(magic)+1 : fileHeader-4])
	binary.LittleEndian.PutUint32(file[fileHeader-4:], s.sum(file[:fileHeader-4]))
}
