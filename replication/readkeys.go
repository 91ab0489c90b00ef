package replication

import "encoding/hex"

// ReadKey is the key of the record of kind keys that is there for as long as an API key of scope rk is valid. hash is the key's SHA-256: whoever reads the
// record can tell the key when it is shown, and cannot make one. Keys are drawn by lot from 2^100.
func ReadKey(hash [32]byte) string { return "rk:" + hex.EncodeToString(hash[:]) }

// ReadKeyValue is the value of such a record, which says nothing.
func ReadKeyValue() []byte { return []byte{1} }
