package replication

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGoldenFormats holds the bytes that logs, disks and networks hold: they never change.
func TestGoldenFormats(t *testing.T) {
	record := Record{Env: entitlement.Sandbox, Kind: KindAccount, Key: "acc_01", Value: []byte{0xa1, 1, 2}}
	deleted := Record{Env: entitlement.Production, Kind: KindPointer, Key: "acc_02"}
	first, second := Change{N: 4711, Record: record}.AppendBinary(nil), Change{N: 4712, Record: deleted}.AppendBinary(nil)
	position := Position{Cluster: "c", Epoch: 1, N: 4711, Chain: NextChain(Hash{}, first), StateHash: record.Hash(), Rules: 1}
	claims := Manifest{Position: position, Size: 99, SHA256: Hash{1, 2}}.Claims(1_700_000_000)
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "%s %v\n", name, value) }
	line("record_key", string(record.DBKey()))
	line("record_hash", record.Hash())
	line("record_stored", hex.EncodeToString(record.Stored()))
	line("change", hex.EncodeToString(first))
	line("change_of_deletion", hex.EncodeToString(second))
	line("chain_1", NextChain(Hash{}, first))
	line("chain_2", NextChain(NextChain(Hash{}, first), second))
	line("batch", hex.EncodeToString(Batch{Signed: "a.b.c", Changes: [][]byte{first, second}}.AppendBinary(nil)))
	line("empty_batch", hex.EncodeToString(Batch{Signed: "a.b.c"}.AppendBinary(nil)))
	line("snapshot_frame", hex.EncodeToString(record.appendBinary(nil)))
	line("state_hash_of_two", record.Hash().Add(Record{Env: "e", Kind: "k", Key: "k", Value: []byte("v")}.Hash()))
	line("manifest_claims", fmt.Sprintf("%+v", claims))
	line("session_keys", hex.EncodeToString(entitlement.Encode(SessionKeys{JWKs: [][]byte{[]byte(`{}`)}})))
	path := filepath.Join("testdata", "formats.golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("formats have changed; got:\n%swant:\n%s", b.String(), want)
	}
}

func drawRecord(t *rapid.T) Record {
	r := Record{
		Env:  rapid.SampledFrom(entitlement.Environments).Draw(t, "env"),
		Kind: rapid.SampledFrom([]Kind{KindAccount, KindPointer, KindCatalog, KindPolicy, KindKeys}).Draw(t, "kind"),
		Key:  rapid.StringN(1, 40, 200).Draw(t, "key"),
	}
	if rapid.Bool().Draw(t, "present") {
		r.Value = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
	}
	return r
}

// TestFramesSurviveTheWay: what was written is read, and what is cut or prolonged is refused.
func TestFramesSurviveTheWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var changes []Change
		batch := Batch{Signed: rapid.StringN(0, 50, 200).Draw(t, "signed")}
		for range rapid.IntRange(0, 5).Draw(t, "changes") {
			c := Change{N: rapid.Uint64().Draw(t, "n"), Record: drawRecord(t)}
			changes = append(changes, c)
			batch.Changes = append(batch.Changes, c.AppendBinary(nil))
		}
		frame := batch.AppendBinary(nil)
		got, err := ParseBatch(frame)
		if err != nil || got.Signed != batch.Signed || len(got.Changes) != len(changes) {
			t.Fatalf("ParseBatch = %+v, %v", got, err)
		}
		for i, want := range changes {
			c, rest, err := ParseChange(got.Changes[i])
			if err != nil || len(rest) != 0 || c.N != want.N || !bytes.Equal(c.DBKey(), want.DBKey()) || !bytes.Equal(c.Value, want.Value) || (c.Value == nil) != (want.Value == nil) {
				t.Fatalf("ParseChange = %+v, %v, want %+v", c, err, want)
			}
		}
		cut := rapid.IntRange(0, len(frame)-1).Draw(t, "cut")
		if _, err := ParseBatch(frame[:cut]); err == nil {
			t.Fatalf("a batch cut to %d of %d bytes was read", cut, len(frame))
		}
		if _, err := ParseBatch(append(frame, 0)); err == nil {
			t.Fatal("a batch with a byte too many was read")
		}
	})
}

// TestHashArithmetic: adding and taking away are those of the integers mod 2^256, so the order of changes does not matter and nothing is left behind.
func TestHashArithmetic(t *testing.T) {
	modulus := new(big.Int).Lsh(big.NewInt(1), 256)
	number := func(h Hash) *big.Int { return new(big.Int).SetBytes(h[:]) }
	hash := rapid.Custom(func(t *rapid.T) (h Hash) {
		for i := range h { // ends of the range are where carries go wrong
			h[i] = rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xfe, 0xff}).Draw(t, "byte")
		}
		return h
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := hash.Draw(t, "a"), hash.Draw(t, "b")
		sum := new(big.Int).Mod(new(big.Int).Add(number(a), number(b)), modulus)
		difference := new(big.Int).Mod(new(big.Int).Sub(number(a), number(b)), modulus)
		if number(a.Add(b)).Cmp(sum) != 0 || number(a.Sub(b)).Cmp(difference) != 0 || a.Add(b).Sub(b) != a {
			t.Fatalf("%s and %s: sum %s, difference %s", a, b, a.Add(b), a.Sub(b))
		}
	})
}

// TestStoredRecordsAreChecked: any flipped bit, another key or environment, and the bytes are refused.
func TestStoredRecordsAreChecked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		stored := r.Stored()
		if got, err := FromStored(r.Env, r.Kind, r.Key, stored); err != nil || !bytes.Equal(got.Value, r.Value) {
			t.Fatalf("FromStored = %+v, %v", got, err)
		}
		if env, kind, key, ok := SplitDBKey(r.DBKey()); !ok || env != r.Env || kind != r.Kind || key != r.Key {
			t.Fatalf("SplitDBKey(%q) = %s %s %s %t", r.DBKey(), env, kind, key, ok)
		}
		bit := rapid.IntRange(0, len(stored)*8-1).Draw(t, "bit")
		stored[bit/8] ^= 1 << (bit % 8)
		if _, err := FromStored(r.Env, r.Kind, r.Key, stored); err == nil {
			t.Fatalf("bit %d flipped and not noticed", bit)
		}
		stored[bit/8] ^= 1 << (bit % 8)
		if _, err := FromStored(r.Env, r.Kind, r.Key+"x", stored); err == nil {
			t.Fatal("the record of another key was believed")
		}
	})
}

// TestRevisionForm is the table of what is a revision.
func TestRevisionForm(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Revision
		ok   bool
	}{
		{"1-4711", Revision{1, 4711}, true},
		{"1700000000-0", Revision{1_700_000_000, 0}, true},
		{"18446744073709551615-18446744073709551615", Revision{1<<64 - 1, 1<<64 - 1}, true},
		{"", Revision{}, false}, {"1", Revision{}, false}, {"1-", Revision{}, false}, {"-1", Revision{}, false}, {"1-2-3", Revision{}, false},
		{"01-2", Revision{}, false}, {"1-02", Revision{}, false}, {"+1-2", Revision{}, false}, {"1- 2", Revision{}, false},
		{"18446744073709551616-0", Revision{}, false}, {"1-1e3", Revision{}, false},
	} {
		if got, err := ParseRevision(tt.text); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseRevision(%q) = %v, %v, want %v, ok %t", tt.text, got, err, tt.want, tt.ok)
		}
	}
	if (Revision{1, 9}).Compare(Revision{2, 1}) != -1 || (Revision{2, 1}).Compare(Revision{1, 9}) != 1 || (Revision{1, 1}).Compare(Revision{1, 1}) != 0 {
		t.Error("revisions are not ordered by epoch first")
	}
}

// TestSnapshotsAreRead as they were written, and refused when cut, disordered or too large.
func TestSnapshotsAreRead(t *testing.T) {
	write := func(records ...Record) []byte {
		t.Helper()
		var b bytes.Buffer
		info, err := WriteSnapshot(&b, func(yield func(Record) error) error {
			for _, r := range records {
				if err := yield(r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || info.Size != int64(b.Len()) || info.Records != int64(len(records)) {
			t.Fatalf("WriteSnapshot = %+v, %v of %d bytes", info, err, b.Len())
		}
		return b.Bytes()
	}
	record := func(key string, size int) Record {
		return Record{Env: entitlement.Sandbox, Kind: KindAccount, Key: key, Value: bytes.Repeat([]byte{7}, size)}
	}
	read := func(b []byte) (n int, err error) {
		err = ReadSnapshot(bytes.NewReader(b), func(r Record) error { n++; return nil })
		return n, err
	}
	if n, err := read(write()); n != 0 || err != nil {
		t.Errorf("an empty snapshot: %d, %v", n, err)
	}
	whole := write(record("a", 0), record("b", MaxRecordBytes), record("c", 5))
	if n, err := read(whole); n != 3 || err != nil {
		t.Errorf("a snapshot: %d records, %v, want 3", n, err)
	}
	for name, b := range map[string][]byte{
		"cut":        whole[:len(whole)-4],
		"disordered": write(record("b", 1), record("a", 1)),
		"repeated":   write(record("a", 1), record("a", 1)),
		"too large":  write(record("a", MaxRecordBytes+1)),
		"no zstd":    []byte("nothing"),
	} {
		if _, err := read(b); err == nil {
			t.Errorf("a snapshot that is %s was read", name)
		}
	}
}

func FuzzParseChange(f *testing.F) {
	f.Add(Change{N: 1, Record: Record{Env: "sandbox", Kind: KindAccount, Key: "a", Value: []byte("v")}}.AppendBinary(nil))
	f.Add(Change{N: 2, Record: Record{Env: "sandbox", Kind: KindAccount, Key: "a"}}.AppendBinary(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, rest, err := ParseChange(b)
		if err == nil && !bytes.Equal(c.AppendBinary(nil), b[:len(b)-len(rest)]) {
			t.Errorf("ParseChange(%x) is not the one encoding", b)
		}
	})
}

func FuzzParseBatch(f *testing.F) {
	f.Add(Batch{Signed: "x.y.z", Changes: [][]byte{{1}, {2, 3}}}.AppendBinary(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		batch, err := ParseBatch(b)
		if err == nil && !bytes.Equal(batch.AppendBinary(nil), b) {
			t.Errorf("ParseBatch(%x) is not the one encoding", b)
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	var b bytes.Buffer
	if _, err := WriteSnapshot(&b, func(yield func(Record) error) error {
		return yield(Record{Env: "sandbox", Kind: KindAccount, Key: "a", Value: []byte("v")})
	}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = ReadSnapshot(bytes.NewReader(b), func(r Record) error { // must only not panic, and stay within its limits
			if len(r.Value) > MaxRecordBytes {
				t.Errorf("a record of %d bytes", len(r.Value))
			}
			return nil
		})
	})
}
