package writer

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// socketFile is where the operator's commands reach a running writer. Its permission is the authentication.
const socketFile = "operator.sock"

// maxProblemBytes bounds what is read of a refusal.
const maxProblemBytes = 64 << 10

// operatorTimeout is how long an operator's command waits.
const operatorTimeout = 15 * time.Second

// maxSocketPath is how long a socket's path may be (sun_path of Linux has 108 bytes, others less).
const maxSocketPath = 100

// withSocket calls f with a path of the socket in dir that is short enough for the kernel: where the real one is too long, one through
// the open folder.
func withSocket(dir string, f func(path string) error) error {
	path := filepath.Join(dir, socketFile)
	if len(path) <= maxSocketPath {
		return f(path)
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	return f(filepath.Join("/proc/self/fd", strconv.Itoa(int(folder.Fd())), socketFile))
}

// listenOperator takes the socket. The data folder lets nobody else in, so that there is no moment in which the mode is too wide.
func listenOperator(dir string) (l net.Listener, err error) {
	err = withSocket(dir, func(path string) error {
		// What is there belongs to a writer that is gone: the store's lock let only one in.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		unix.SetUnlinkOnClose(false) // by a path that may be gone then; the next start removes it
		l = unix
		return os.Chmod(path, 0o600)
	})
	return l, err
}

func (w *Writer) routeOperator(s *server) {
	s.handle("GET /status", w.handleStatus)
	s.handle("GET /backup", w.handleBackup)
	s.handle("GET /keys", w.handleKeys)
	s.handle("POST /keys", w.handleAddKey)
	s.handle("POST /keys/revoke", w.handleRevokeKey)
	s.handle("POST /revocations", w.handleRevocations)
	s.handle("POST /transfer", w.handleTransfer)
	s.handle("POST /join", w.handleJoin)
	s.handle("POST /remove/{id}", w.handleRemove)
	s.handle("POST /import/{provider}/{env}", w.handleImport)
}

// APIKeyInfo is what is known of an API key. The key itself is nowhere.
type APIKeyInfo struct {
	Environment entitlement.Environment `json:"environment"`
	Name        string                  `json:"name"`
	Scope       string                  `json:"scope"`
	Hash        string                  `json:"sha256"` // of the key, the first 8 bytes in hex: enough to tell two keys apart
	CreatedAt   string                  `json:"created_at"`
	LastUsed    *string                 `json:"last_used"` // to about a minute
	RevokedAt   *string                 `json:"revoked_at"`
}

func (w *Writer) handleKeys(rw http.ResponseWriter, r *http.Request) error {
	list := []APIKeyInfo{}
	err := w.read(r.Context(), func(reader *store.Reader) error {
		keys, err := reader.APIKeys()
		for _, k := range keys {
			list = append(list, APIKeyInfo{Environment: k.Env, Name: k.Name, Scope: k.Scope, Hash: hex.EncodeToString(k.Hash[:8]),
				CreatedAt: formatTime(k.CreatedAt), LastUsed: optionalTime(k.LastUsed), RevokedAt: optionalTime(k.RevokedAt)})
		}
		return err
	})
	if err != nil {
		return err
	}
	return writeJSON(rw, http.StatusOK, list)
}

// keyRequest adds or revokes a key. Only its hash crosses the socket.
type keyRequest struct {
	Environment entitlement.Environment `json:"environment"`
	Name        string                  `json:"name"`
	Scope       string                  `json:"scope,omitempty"`
	Hash        []byte                  `json:"hash,omitempty"`
}

func (w *Writer) keyRequest(r *http.Request) (keyRequest, error) {
	var req keyRequest
	body, err := readBody(r, maxAPIBodyBytes)
	if err != nil {
		return req, err
	}
	if err := decodeStrict(body, &req); err != nil {
		return req, problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	if _, served := w.cfg.Environments[req.Environment]; !served {
		return req, problem.New(problem.UnknownEnvironment, "This cluster does not serve such an environment.")
	}
	if !keyName.MatchString(req.Name) {
		return req, wrong("name", "want letters, digits, dots, dashes, at most 64")
	}
	return req, nil
}

func (w *Writer) handleAddKey(rw http.ResponseWriter, r *http.Request) error {
	req, err := w.keyRequest(r)
	if err != nil {
		return err
	}
	if !validScope(req.Scope) {
		return wrong("scope", "want sk, rk or pk")
	}
	return w.commitKey(rw, r, req.Environment, store.TypeAddAPIKey, store.AddAPIKey{Hash: req.Hash, Name: req.Name, Scope: req.Scope})
}

func (w *Writer) handleRevokeKey(rw http.ResponseWriter, r *http.Request) error {
	req, err := w.keyRequest(r)
	if err != nil {
		return err
	}
	return w.commitKey(rw, r, req.Environment, store.TypeRevokeAPIKey, store.RevokeAPIKey{Name: req.Name})
}

func (w *Writer) commitKey(rw http.ResponseWriter, r *http.Request, env entitlement.Environment, t store.CommandType, body any) error {
	result, err := w.propose(withCaller(r.Context(), store.Caller{Kind: store.CallerOperator}), t, env, body)
	if err != nil {
		return err
	}
	if rej := result.Rejection; rej != nil {
		return problem.New(problem.Slug(rej.Slug), sentence(rej.Detail))
	}
	return writeJSON(rw, http.StatusOK, written{Revision: result.Revision.String()})
}

// Operator talks to a running writer on this machine through the socket in its data folder.
type Operator struct{ client *http.Client }

// ErrNotRunning means that no writer answers at the data folder's socket.
var ErrNotRunning = errors.New("no writer runs here")

// NewOperator returns the operator of the writer with that data folder.
func NewOperator(dataDir string) *Operator {
	return &Operator{client: &http.Client{Timeout: operatorTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			err = withSocket(dataDir, func(path string) error {
				conn, err = (&net.Dialer{}).DialContext(ctx, "unix", path)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
			}
			return conn, nil
		},
		DisableKeepAlives: true,
	}}}
}

// Status returns what the writer says of itself. Error: ErrNotRunning.
func (o *Operator) Status(ctx context.Context) (s Status, err error) {
	return s, o.do(ctx, http.MethodGet, "/status", nil, &s)
}

// Keys lists the API keys of all environments, revoked ones too. Error: ErrNotRunning.
func (o *Operator) Keys(ctx context.Context) (list []APIKeyInfo, err error) {
	return list, o.do(ctx, http.MethodGet, "/keys", nil, &list)
}

// AddKey draws an API key and adds it to the cluster. The key is shown here and nowhere else, ever. Error: ErrNotRunning.
func (o *Operator) AddKey(ctx context.Context, env entitlement.Environment, name, scope string) (key string, err error) {
	key = newAPIKey(env, scope)
	hash := hashAPIKey(key)
	return key, o.do(ctx, http.MethodPost, "/keys", keyRequest{Environment: env, Name: name, Scope: scope, Hash: hash[:]}, nil)
}

// RevokeKey ends every key of that name, on all nodes. Error: ErrNotRunning.
func (o *Operator) RevokeKey(ctx context.Context, env entitlement.Environment, name string) error {
	return o.do(ctx, http.MethodPost, "/keys/revoke", keyRequest{Environment: env, Name: name}, nil)
}

// Transfer hands leadership from this writer to the one with that id, or to the most advanced one where id is empty. Error: ErrNotRunning.
func (o *Operator) Transfer(ctx context.Context, id string) error {
	return o.do(ctx, http.MethodPost, "/transfer?to="+url.QueryEscape(id), struct{}{}, nil)
}

// Join has the writer ask its cluster to take it in, if it did not yet, and says how far that is. Ask again until it votes. Error: ErrNotRunning.
func (o *Operator) Join(ctx context.Context) (p JoinProgress, err error) {
	return p, o.do(ctx, http.MethodPost, "/join", struct{}{}, &p)
}

// Remove ends the membership of the writer with that id, for ever. Error: ErrNotRunning.
func (o *Operator) Remove(ctx context.Context, id string) error {
	return o.do(ctx, http.MethodPost, "/remove/"+url.PathEscape(id), struct{}{}, nil)
}

func (o *Operator) do(ctx context.Context, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://writer"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	res, err := o.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return refusal(res)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}

// refusal is a problem as the operator reads it.
func refusal(res *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxProblemBytes))
	if err != nil {
		return err
	}
	var p struct{ Title, Detail string }
	_ = json.Unmarshal(b, &p)
	return fmt.Errorf("%s: %s", p.Title, p.Detail)
}
