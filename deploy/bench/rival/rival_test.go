package rival

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// redis answers GET with what is in values, as Redis does.
func redis(t *testing.T, values map[string]string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					var words [5]string // *2, $3, GET, the key's length, the key
					for i := range words {
						line, err := in.ReadString('\n')
						if err != nil {
							return
						}
						words[i] = strings.TrimSpace(line)
					}
					if v, ok := values[words[4]]; ok && words[2] == "GET" {
						fmt.Fprintf(c, "$%d\r\n%s\r\n", len(v), v)
					} else {
						io.WriteString(c, "$-1\r\n")
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// TestAnswers: who has a session gets the account's entitlements as of now, signed; who has none gets nothing, and nobody anything about an account that is not there.
func TestAnswers(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := FormatKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	record, err := json.Marshal(Answer{Account: "acc_1", Environment: "sandbox", Revision: "1-2", Entitlements: []Entitlement{
		{ID: "pro", AccessUntil: time.Now().Add(time.Hour)}, {ID: "old", AccessUntil: time.Now().Add(-time.Hour)}}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(Config{Redis: redis(t, map[string]string{"account:acc_1": string(record)}), SessionKey: public, Header: map[string]any{"kid": "k"}, Issuer: "issuer", Audience: "app"})
	if err != nil {
		t.Fatal(err)
	}
	said, out := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, bytes.NewReader(config), out) }()
	lines := bufio.NewScanner(said)
	lines.Scan()
	addr := lines.Text()
	lines.Scan()
	signer, err := ParseKey(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	session := func(account string) string {
		s, err := Session(key, "issuer", "app", account, "phone")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tt := range []struct {
		name, session string
		status        int
	}{
		{"an account", session("acc_1"), http.StatusOK},
		{"an account, again", session("acc_1"), http.StatusOK},
		{"an account that is not there", session("acc_2"), http.StatusServiceUnavailable},
		{"no session", "x", http.StatusUnauthorized},
	} {
		req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/v1/entitlements?nonce=n", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tt.session)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != tt.status {
			t.Fatalf("%s: %d %s, %v; want %d", tt.name, res.StatusCode, body, err, tt.status)
		}
		if tt.status != http.StatusOK {
			continue
		}
		var a Answer
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatal(err)
		}
		header, claims, err := Verify(a.GraceToken, signer)
		if err != nil || header["kid"] != "k" || claims["sub"] != "acc_1" || claims["nonce"] != "n" || claims["rev"] != "1-2" {
			t.Errorf("%s: token %v %v, %v", tt.name, header, claims, err)
		}
		if len(a.Entitlements) != 2 || !a.Entitlements[0].Active || a.Entitlements[1].Active {
			t.Errorf("%s: entitlements %+v, want pro active and old not", tt.name, a.Entitlements)
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}
