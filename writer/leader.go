package writer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

const (
	// setupRetry is the pause after the leader could not bring its configuration into the state.
	setupRetry = time.Second
	// maxSessionKeys bounds the session keys of an environment: the present one, and those that tokens still live under.
	maxSessionKeys = 4
	// touchInterval is how often the times of use of API keys are committed; they are good to about that.
	touchInterval = time.Minute
)

// lead does what only the leader does, each time that this node becomes it, until ctx ends.
func (w *Writer) lead(ctx context.Context) {
	for {
		leading, err := w.store.LeaderContext(ctx)
		if err != nil {
			return
		}
		select {
		case w.elected <- struct{}{}:
		default: // is due already
		}
		var publishing sync.WaitGroup
		publishing.Go(func() { w.publish(leading) })
		publishing.Go(func() { w.pull(leading) })
		publishing.Go(func() { w.pullVoided(leading) })
		publishing.Go(func() { w.poll(leading) })
		publishing.Go(func() { w.watchUnclaimed(leading) })
		publishing.Go(func() { w.watchDoubles(leading) })
		publishing.Go(func() { w.deliver(leading) })
		publishing.Go(func() { w.passOn(leading) })
		publishing.Go(func() { w.recoverMissed(leading) })
		w.setUp(leading)
		<-leading.Done()
		publishing.Wait()
	}
}

// setUp brings what the configuration says first into the state: session keys, API keys, a first catalog. What the state has already
// stays as it is.
func (w *Writer) setUp(ctx context.Context) {
	for {
		var errs []error
		for env := range w.cfg.Environments {
			ctx := problem.WithRequestID(ctx, newID())
			errs = append(errs, w.setUpSessionKeys(ctx, env), w.setUpAPIKeys(ctx, env), w.setUpCatalog(ctx, env))
		}
		err := errors.Join(errs...)
		if err == nil || ctx.Err() != nil {
			return
		}
		w.log.WarnContext(ctx, "configuration not in the state yet", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(setupRetry):
		}
	}
}

// setUpSessionKeys adds this configuration's session key to those that edges accept. Older ones stay: tokens live under them.
func (w *Writer) setUpSessionKeys(ctx context.Context, env entitlement.Environment) error {
	own := w.keys.sessionJWKs[env]
	var present [][]byte
	err := w.store.View(func(r *store.Reader) (err error) {
		keys, err := r.SessionKeys(env)
		for _, k := range keys {
			present = append(present, bytes.Clone(k))
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, k := range present {
		if bytes.Equal(k, own) {
			return nil
		}
	}
	keys := append([][]byte{own}, present...)
	return w.commitSetUp(ctx, store.TypePutKeys, env, store.PutSessionKeys{JWKs: keys[:min(len(keys), maxSessionKeys)]})
}

func (w *Writer) setUpAPIKeys(ctx context.Context, env entitlement.Environment) error {
	for _, k := range w.cfg.Environments[env].APIKeys {
		hash := hashAPIKey(string(k.Key))
		known := false
		err := w.store.View(func(r *store.Reader) (err error) {
			_, known, err = r.APIKey(hash[:])
			return err
		})
		if err == nil && !known {
			err = w.commitSetUp(ctx, store.TypeAddAPIKey, env, store.AddAPIKey{Hash: hash[:], Name: k.Name, Scope: k.Scope})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) setUpCatalog(ctx context.Context, env entitlement.Environment) error {
	path := w.cfg.Environments[env].CatalogFile
	if path == "" {
		return nil
	}
	present := false
	err := w.store.View(func(r *store.Reader) (err error) {
		_, present, err = r.Record(env, replication.KindCatalog, replication.CurrentKey)
		return err
	})
	if err != nil || present {
		return err
	}
	catalog, err := readCatalog(path)
	if err != nil {
		return err
	}
	return w.commitSetUp(ctx, store.TypePutCatalog, env, store.PutCatalog{Catalog: catalog})
}

// commitSetUp proposes a part of the configuration. What the state machine rejects would be rejected again, so it is told to the
// operator and not retried.
func (w *Writer) commitSetUp(ctx context.Context, t store.CommandType, env entitlement.Environment, body any) error {
	result, err := w.propose(ctx, t, env, body)
	if err == nil && result.Rejection != nil {
		w.log.ErrorContext(ctx, "part of the configuration rejected", "environment", env, "type", t, "problem", result.Rejection.Slug, "detail", result.Rejection.Detail)
	}
	return err
}

// touch notes that an API key was used.
func (w *Writer) touch(hash [32]byte) {
	w.touchMu.Lock()
	defer w.touchMu.Unlock()
	w.touched[hash] = w.now().Unix()
}

// flushTouches commits now and then when API keys were last used. What is lost at a crash is a minute of that.
func (w *Writer) flushTouches(ctx context.Context) {
	ticker := time.NewTicker(touchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		w.touchMu.Lock()
		used := w.touched
		w.touched = map[[sha256.Size]byte]int64{}
		w.touchMu.Unlock()
		if len(used) == 0 {
			continue
		}
		named := make(map[string]int64, len(used))
		for hash, at := range used {
			named[hex.EncodeToString(hash[:])] = at
		}
		if _, err := w.propose(ctx, store.TypeTouchAPIKeys, "", store.TouchAPIKeys{LastUsed: named}); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "last use of api keys not noted", "error", err)
		}
	}
}
