package replication

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Limits of a snapshot's reader: what a hostile body may cost in memory. A window of 8 MiB is what the writer's level uses at
// most.
const (
	maxSnapshotWindow   = 8 << 20
	snapshotBufferBytes = 128 << 10
)

// SnapshotInfo says what WriteSnapshot wrote; with the position of the records it becomes a Manifest.
type SnapshotInfo struct {
	Size    int64 // bytes written
	SHA256  Hash  // of the bytes written
	Records int64
}

// WriteSnapshot writes every record that iterate yields, which must be all records of one position in ascending order of
// DBKey, to w as a zstd stream: for each its environment, kind, key and value, each after its length (4 bytes, big endian).
// w should be a file: a slow network peer must not hold up the read transaction below iterate.
func WriteSnapshot(w io.Writer, iterate func(func(Record) error) error) (SnapshotInfo, error) {
	var info SnapshotInfo
	sum := sha256.New()
	counted := &countingWriter{w: io.MultiWriter(w, sum)}
	compressed, err := zstd.NewWriter(counted, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(4<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return info, fmt.Errorf("write snapshot: %w", err)
	}
	var frame []byte
	err = iterate(func(r Record) error {
		info.Records++
		frame = r.appendBinary(frame[:0])
		_, err := compressed.Write(frame)
		return err
	})
	if closeErr := compressed.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return SnapshotInfo{}, fmt.Errorf("write snapshot: %w", err)
	}
	info.Size = counted.n
	sum.Sum(info.SHA256[:0])
	return info, nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadSnapshot reads what WriteSnapshot wrote and yields each record; its Value is valid only during the call. Records out
// of order, repeated, larger than MaxRecordBytes or cut off are refused. It proves nothing: the caller compares the records'
// state hash with the manifest's. Errors: ErrFrame, and what yield returns.
func ReadSnapshot(r io.Reader, yield func(Record) error) error {
	plain, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxSnapshotWindow))
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	defer plain.Close()
	in := bufio.NewReaderSize(plain, snapshotBufferBytes)
	var last, key []byte
	var fields [4][]byte
	for n := int64(0); ; n++ {
		for i, limit := range [4]uint32{maxKeyBytes, maxKeyBytes, maxKeyBytes, MaxRecordBytes} {
			field, err := readField(in, fields[i], limit)
			if i == 0 && errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read snapshot: record %d: %w: %w", n, ErrFrame, err)
			}
			fields[i] = field
		}
		rec := Record{Env: entitlement.Environment(fields[0]), Kind: Kind(fields[1]), Key: string(fields[2]), Value: fields[3]}
		key = AppendDBKey(key[:0], rec.Env, rec.Kind, rec.Key)
		if n > 0 && string(key) <= string(last) {
			return fmt.Errorf("read snapshot: record %d is out of order: %w", n, ErrFrame)
		}
		last, key = key, last
		if err := yield(rec); err != nil {
			return err
		}
	}
}

// readField reads a length and that many bytes into buf. io.EOF means that nothing at all was left.
func readField(in *bufio.Reader, buf []byte, limit uint32) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > limit {
		return nil, fmt.Errorf("field of %d bytes", n)
	}
	if uint32(cap(buf)) < n {
		buf = make([]byte, n, max(n, 1024))
	}
	buf = buf[:n]
	if _, err := io.ReadFull(in, buf); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return buf, nil
}
