// Command boltfloor is what the look-up of an account is measured against: a bare net/http handler that reads one key of bbolt and sends what it finds.
// `make bench` runs it; nobody else should.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

var bucket = []byte("records")

func main() {
	dir := flag.String("dir", "", "folder")
	keys := flag.Int("keys", 1000, "rows in the file; row n has the key n")
	size := flag.Int("size", 1000, "bytes of a row")
	flag.Parse()
	if err := serve(*dir, *keys, *size); err != nil {
		fmt.Fprintln(os.Stderr, "boltfloor:", err)
		os.Exit(1)
	}
}

// serve answers GET /{key} until the process is killed, and first prints its address.
func serve(dir string, keys, size int) error {
	db, err := bolt.Open(filepath.Join(dir, "floor.db"), 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	value := make([]byte, size)
	for i := range value {
		value[i] = 'a'
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		for n := 0; n < keys && err == nil; n++ {
			err = b.Put(fmt.Append(nil, n), value)
		}
		return err
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := db.View(func(tx *bolt.Tx) error {
			row := tx.Bucket(bucket).Get([]byte(r.URL.Path[1:]))
			if row == nil {
				w.WriteHeader(http.StatusNotFound)
				return nil
			}
			w.Header().Set("Content-Type", "application/json")
			_, err := w.Write(row)
			return err
		})
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
}
