package writer

import (
	"bytes"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// TestNoMessageIsLostWithoutALeader: a provider that may not send again gets 503 in time while nobody leads; its message lies on disk without its token
// or anything personal, survives a restart, and is recorded once somebody leads. Sent again it is a duplicate.
func TestNoMessageIsLostWithoutALeader(t *testing.T) {
	var writers []*testWriter
	configs := testConfigs(t, 3)
	for i := range configs {
		withWeb2Wave(&configs[i], "")
		writers = append(writers, startWriter(t, configs[i]))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	acc, user := writers[0].account(), "8e6a0f5e-3d0b-4c61-9a0e-5f4f2f9d1c22"
	if r := writers[0].api("POST", "/v1/accounts/"+acc+"/aliases", `{"kind": "web2wave_user", "value": "`+user+`"}`); r.status != http.StatusOK {
		t.Fatalf("alias = %d %s", r.status, r.text)
	}
	taken := web2waveRow(1, user, nil)
	if r := writers[0].web2wave("subscription", taken); r.status != http.StatusOK || writers[0].waiting.length() != 0 {
		t.Fatalf("with a leader = %d %s, and %d messages wait", r.status, r.text, writers[0].waiting.length())
	}
	writers[1].stop()
	writers[2].stop()
	row := web2waveRow(2, user, nil)
	// Of a provider with little patience a busy machine, too, shows that it counts: whom none is known of waits for proposeTimeout.
	writers[0].adapters[entitlement.Sandbox][entitlement.Web2Wave] = hurried{writers[0].adapters[entitlement.Sandbox][entitlement.Web2Wave]}
	began := time.Now()
	r := writers[0].web2wave("subscription", row)
	if took := time.Since(began); r.status != http.StatusServiceUnavailable || r.slug() != "unavailable" || r.header.Get("Retry-After") == "" || took > hurry+2*time.Second {
		t.Fatalf("without a leader = %d %s after %v, want 503 before its provider is gone, after %v", r.status, r.text, took, hurry)
	}
	if adapter, err := provider.NewWeb2Wave(provider.Web2WaveConfig{Tokens: []string{web2waveToken}}); err != nil || adapter.Delivery().Patience >= 3*time.Second {
		t.Errorf("its provider does not wait for %s, %v", adapter.Delivery().Patience, err)
	}
	folder := filepath.Join(configs[0].Node.DataDir, waitingFolder)
	files, err := os.ReadDir(folder)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d messages lie on disk, %v; want 1", len(files), err)
	}
	content, err := os.ReadFile(filepath.Join(folder, files[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	command, err := store.DecodeCommand(content[len(waitingMagic)+32:])
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{web2waveToken, "canary", "example.com"} {
		if bytes.Contains(content, []byte(secret)) || bytes.Contains(command.Body, []byte(secret)) {
			t.Errorf("what waits on disk has %q in it", secret)
		}
	}
	writers[0].stop()
	for i := range 2 {
		configs[i].listeners = listeners{} // at the same addresses, which the configuration has
		writers[i] = startWriter(t, configs[i])
	}
	for _, w := range writers[:2] {
		w.awaitReady()
	}
	await(t, "the message that waited", func() bool {
		others, _ := writers[1].pro(acc)["other_purchases"].([]any)
		return len(others) == 1 && writers[0].waiting.length() == 0
	})
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("%d files are left of a message that was committed, %v", len(left), err)
	}
	if r := writers[1].web2wave("subscription", row); r.status != http.StatusOK || r.json["duplicate"] != true {
		t.Errorf("sent again = %d %s, want a duplicate", r.status, r.text)
	}
	if text := writers[0].get("/metrics").text; !strings.Contains(text, `latchkey_writer_waiting_messages_total{outcome="committed"} 1`) || !strings.Contains(text, "latchkey_writer_waiting_messages 0") {
		t.Error("the metrics do not tell of the message that waited")
	} else if !strings.Contains(text, `latchkey_writer_provider_event_to_record_seconds_count{by="webhook",provider="web2wave"} 1`) {
		t.Error("how long the message took is not measured (R28)")
	}
}

// hurried is a provider that waits for hurry.
type hurried struct{ provider.Adapter }

const hurry = 200 * time.Millisecond

func (h hurried) Delivery() provider.Delivery { return provider.Delivery{Patience: hurry} }

// keepIn opens a folder and counts outcomes.
func keepIn(t *testing.T, dir string) (*waiting, map[string]int) {
	t.Helper()
	counted := map[string]int{}
	w, err := openWaiting(dir, slog.New(slog.DiscardHandler), func(outcome string) { counted[outcome]++ })
	if err != nil {
		t.Fatal(err)
	}
	return w, counted
}

// TestWhatACrashLeaves goes through the states of the folder that a crash at each step can leave, and damage of every kind.
func TestWhatACrashLeaves(t *testing.T) {
	message := store.NewCommand(store.TypeRecordEvent, entitlement.Sandbox, "id", store.RecordEvent{Event: entitlement.Event{Provider: entitlement.Web2Wave, ID: "x"}}).Encode()
	whole := func(t *testing.T, dir string) (path string, content []byte) {
		w, _ := keepIn(t, dir)
		name, err := w.keep(message)
		if err != nil {
			t.Fatal(err)
		}
		content, err = os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name), content
	}
	tests := []struct {
		name       string
		leave      func(path string, content []byte) error
		due        int
		unreadable int
	}{
		{"before the file has its name: it was not answered for", func(path string, _ []byte) error { return os.Rename(path, path+".tmp") }, 0, 0},
		{"after it has its name", func(string, []byte) error { return nil }, 1, 0},
		{"after the commit, before it is removed: proposed again, found to be a duplicate", func(string, []byte) error { return nil }, 1, 0},
		{"an empty file", func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) }, 1, 1},
		{"half a file", func(path string, content []byte) error { return os.WriteFile(path, content[:len(content)/2], 0o600) }, 1, 1},
		{"a file without its last byte", func(path string, content []byte) error { return os.WriteFile(path, content[:len(content)-1], 0o600) }, 1, 1},
		{"a flipped bit", func(path string, content []byte) error {
			content[len(content)-3] ^= 4
			return os.WriteFile(path, content, 0o600)
		}, 1, 1},
		{"another file", func(path string, _ []byte) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 500), 0o600) }, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path, content := whole(t, dir)
			if err := tt.leave(path, slices.Clone(content)); err != nil {
				t.Fatal(err)
			}
			_, second := whole(t, dir) // a good one behind it must come through
			w, counted := keepIn(t, dir)
			if len(w.due) != tt.due+1 {
				t.Fatalf("%d messages are due, want %d", len(w.due), tt.due+1)
			}
			var read [][]byte
			for name, ok := w.oldest(); ok; name, ok = w.oldest() {
				if encoded, ok := w.read(name); ok {
					read = append(read, encoded)
					w.drop(name)
				}
			}
			if len(read) != tt.due+1-tt.unreadable || !bytes.HasSuffix(second, read[len(read)-1]) || counted[waitingUnreadable] != tt.unreadable {
				t.Errorf("%d messages were read and %d set aside, want %d and %d", len(read), counted[waitingUnreadable], tt.due+1-tt.unreadable, tt.unreadable)
			}
			if again, _ := keepIn(t, dir); again.length() != 0 || again.bytes != 0 {
				t.Errorf("after all %d messages of %d bytes are still there", again.length(), again.bytes)
			}
			if w.bytes != 0 || w.length() != 0 {
				t.Errorf("after all %d messages of %d bytes are counted", w.length(), w.bytes)
			}
		})
	}
}

// TestWaitingIsBounded: the folder takes no more than it may, and goes on once there is room.
func TestWaitingIsBounded(t *testing.T) {
	dir := t.TempDir()
	w, _ := keepIn(t, dir)
	big := make([]byte, maxWaitingBytes/4)
	var names []string
	for range 3 {
		name, err := w.keep(big)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if _, err := w.keep(big); err == nil {
		t.Fatal("more bytes are kept than may be")
	}
	w.drop(names[0])
	if _, err := w.keep(big); err != nil {
		t.Errorf("keep after one was dropped = %v", err)
	}
	for i := range maxWaiting {
		w.sizes[string(rune(i))] = 0
	}
	if _, err := w.keep([]byte("x")); err == nil {
		t.Error("more messages are kept than may be")
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".tmp") {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
