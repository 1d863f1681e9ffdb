package journal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
)

// A file begins with
//
//	magic 7, version 1, salt 8, checksum 4
//
// and goes on with frames, each the records of one Append, of a
//
//	length 4, number of records 4, checksum of the body 4, checksum of these 4
//
// and a body of so many bytes: for each record its length as a uvarint, and the
// record. Numbers are little-endian, checksums CRC-32C over the salt and what they
// are for. Because the header has one of its own, a body that is damaged can be
// skipped; because of the salt, nothing that somebody made us write into a record
// is ever taken for a frame. All versions keep the header of the file as it is.
const (
	magic       = "gatejnl"
	version     = 1
	fileHeader  = 20
	frameHeader = 16
	lengthSize  = 4 // bytes at most of a uvarint up to MaxRecord
)

// seal makes and checks the checksums of one file.
type seal struct{ salted uint32 }

func (s seal) sum(parts ...[]byte) uint32 {
	table, sum := crc32.MakeTable(crc32.Castagnoli), s.salted // made once by crc32
	for _, part := range parts {
		sum = crc32.Update(sum, table, part)
	}
	return sum
}

func salted(salt []byte) seal { return seal{seal{}.sum(salt)} }

// newFile appends the header of a file.
func newFile(buf []byte) ([]byte, seal) {
	header := append([]byte(magic), version)
	header = append(header, make([]byte, 8)...)
	salt := header[len(magic)+1:]
	_, _ = rand.Read(salt) // it never fails
	s := salted(salt)
	header = binary.LittleEndian.AppendUint32(header, s.sum(header))
	return append(buf, header...), s
}

// parseFile reads the header of a file; false if it is damaged.
func parseFile(header []byte) (seal, bool, error) {
	rest, found := bytes.CutPrefix(header, []byte(magic))
	if !found {
		return seal{}, false, nil
	}
	s := salted(rest[1:9])
	if binary.LittleEndian.Uint32(rest[9:]) != s.sum(header[:fileHeader-4]) {
		return seal{}, false, nil
	}
	if rest[0] != version {
		return seal{}, false, fmt.Errorf("%w %d", ErrVersion, rest[0])
	}
	return s, true, nil
}

// encode makes a frame that still lacks its checksums, which take the salt of the
// file.
func encode(records [][]byte) ([]byte, error) {
	size := 0
	for _, record := range records {
		if len(record) > MaxRecord {
			return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(record))
		}
		size += lengthSize + len(record)
	}
	if size > MaxAppend {
		return nil, fmt.Errorf("%w: %d bytes in %d records", ErrTooLarge, size, len(records))
	}
	frame := make([]byte, frameHeader, frameHeader+size)
	for _, record := range records {
		frame = appendRecord(frame, record)
	}
	finish(frame, len(records))
	return frame, nil
}

func appendRecord(frame, record []byte) []byte {
	return append(binary.AppendUvarint(frame, uint64(len(record))), record...)
}

// finish sets what a header says without the salt.
func finish(frame []byte, records int) {
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-frameHeader)) //nolint:gosec // at most MaxAppend
	binary.LittleEndian.PutUint32(frame[4:], uint32(records))            //nolint:gosec // at most MaxAppend
}

// close sets the checksums of a frame.
func (s seal) close(frame []byte) {
	binary.LittleEndian.PutUint32(frame[8:], s.sum(frame[frameHeader:]))
	binary.LittleEndian.PutUint32(frame[12:], s.sum(frame[:12]))
}

// header is what the header of a frame says.
type header struct {
	length, records int
	body            uint32
}

// parse reads the header of a frame; false if it is damaged.
func (s seal) parse(frame []byte) (header, bool) {
	h := header{
		length:  int(binary.LittleEndian.Uint32(frame)),
		records: int(binary.LittleEndian.Uint32(frame[4:])),
		body:    binary.LittleEndian.Uint32(frame[8:]),
	}
	whole := binary.LittleEndian.Uint32(frame[12:]) == s.sum(frame[:12]) &&
		0 < h.length && h.length <= MaxAppend && 0 < h.records && h.records <= h.length
	return h, whole
}

// intact says that a body is what was written.
func (s seal) intact(h header, body []byte) bool {
	if s.sum(body) != h.body {
		return false
	}
	records, bytes := 0, 0
	for record, size := range split(body) {
		records, bytes = records+1, bytes+size
		if len(record) > MaxRecord {
			return false
		}
	}
	return records == h.records && bytes == len(body)
}

// split yields the records of a body, and how many bytes of it each takes, up to
// where it makes no sense.
func split(body []byte) iter.Seq2[[]byte, int] {
	return func(yield func([]byte, int) bool) {
		for len(body) > 0 {
			length, n := binary.Uvarint(body)
			if n <= 0 || length > uint64(len(body)-n) { //nolint:gosec // n is of the body
				return
			}
			size := n + int(length) //nolint:gosec // at most that of the body
			if !yield(body[n:size:size], size) {
				return
			}
			body = body[size:]
		}
	}
}
