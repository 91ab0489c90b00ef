package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// APIKey is a key of the server API. The key itself is nowhere: only its hash is stored.
type APIKey struct {
	Hash      []byte                  `cbor:"-"` // SHA-256 of the key
	Name      string                  `cbor:"1,keyasint"`
	Env       entitlement.Environment `cbor:"2,keyasint"`
	Scope     string                  `cbor:"3,keyasint"` // sk (all), rk (read only) or pk (publishable: sessions only)
	CreatedAt int64                   `cbor:"4,keyasint,omitempty"`
	LastUsed  int64                   `cbor:"5,keyasint,omitempty"` // Unix seconds, about; 0 is never
	RevokedAt int64                   `cbor:"6,keyasint,omitempty"` // 0: it is valid
}

// init founds the cluster. A second one changes nothing.
func (c *command) init(body *Init) Result {
	if c.st.Epoch == 0 && body.Cluster != "" {
		c.st.Cluster, c.st.Epoch, c.st.Rules = body.Cluster, 1, body.Rules
	}
	if c.st.Cluster != body.Cluster {
		return rejected(SlugInvalidRequest, "this is another cluster")
	}
	return Result{}
}

func (c *command) putKeys(body *PutSessionKeys) Result {
	if !c.Env.Valid() {
		return rejected(SlugInvalidRequest, "environment")
	}
	var keys replication.SessionKeys
	c.current(replication.KindKeys, &keys) // revocations stay
	keys.JWKs = body.JWKs
	return c.putCurrent(replication.KindKeys, entitlement.Encode(&keys))
}

// putRevocations takes a list over unless it is older than the one that is there: of two that were made at once the second is refused, because it does not
// say what the first one says.
func (c *command) putRevocations(body *PutRevocations) Result {
	if !c.Env.Valid() || body.List.Counter < 1 || len(body.List.Text) == 0 || len(body.List.Keys) > token.MaxRevoked {
		return rejected(SlugInvalidRequest, "environment or list")
	}
	var keys replication.SessionKeys
	c.current(replication.KindKeys, &keys)
	others := []replication.RevocationList{}
	for _, l := range keys.Revocations {
		switch {
		case l.ByRoot != body.List.ByRoot:
			others = append(others, l)
		case l.Counter == body.List.Counter && bytes.Equal(l.Text, body.List.Text):
			return Result{Existing: true}
		case l.Counter >= body.List.Counter:
			return rejected(SlugInvalidRequest, "there is a newer list")
		}
	}
	keys.Revocations = append(others, body.List)
	slices.SortFunc(keys.Revocations, func(a, b replication.RevocationList) int { return cmp.Compare(order(a.ByRoot), order(b.ByRoot)) })
	return c.putCurrent(replication.KindKeys, entitlement.Encode(&keys))
}

// order puts the root's list first.
func order(byRoot bool) int {
	if byRoot {
		return 0
	}
	return 1
}

// keyChange runs a command that changes API keys: the repeat of one changes nothing, and what was changed is in the audit trail.
func keyChange[T any](c *command, what string, fn func(*T) Result) Result {
	return plain(c, func(body *T) Result {
		result := fn(body)
		if result.Rejection == nil && !result.Existing && c.st.Rules >= rulesAccounts { // writers of an older version write no row (I17)
			digest := sha256.Sum256(c.Body)
			result.EventID = c.audit(what, body, &result, digest[:])
		}
		return result
	})
}

func (c *command) addAPIKey(body *AddAPIKey) Result {
	if len(body.Hash) != sha256.Size || body.Name == "" || len(body.Name) > maxIDBytes || !c.Env.Valid() ||
		!slices.Contains([]string{"sk", "rk", "pk"}, body.Scope) {
		return rejected(SlugInvalidRequest, "key hash, name, scope or environment")
	}
	if c.get(bucketAPIKeys, body.Hash) != nil {
		return Result{Existing: true}
	}
	key := APIKey{Hash: body.Hash, Name: body.Name, Env: c.Env, Scope: body.Scope, CreatedAt: c.now}
	c.encode(bucketAPIKeys, body.Hash, &key)
	c.publishReadKey(&key)
	return Result{}
}

func (c *command) revokeAPIKey(body *RevokeAPIKey) Result {
	found, stood := false, false
	for _, k := range c.apiKeys() {
		if k.Name != body.Name || k.Env != c.Env {
			continue
		}
		found = true
		if k.RevokedAt == 0 {
			stood, k.RevokedAt = true, c.now
			c.encode(bucketAPIKeys, k.Hash, &k)
			c.unpublishReadKey(&k)
		}
	}
	if !found {
		return rejected(SlugNotFound, "key")
	}
	return Result{Existing: !stood}
}

// apiKeys lists all keys, in the order of their hashes.
func (c *command) apiKeys() []APIKey {
	keys, err := readAPIKeys(c.tx)
	if err != nil {
		c.fail(err)
	}
	return keys
}

func (c *command) touchAPIKeys(body *TouchAPIKeys) Result {
	hashes := make([]string, 0, len(body.LastUsed))
	for h := range body.LastUsed {
		hashes = append(hashes, h)
	}
	slices.Sort(hashes)
	for _, text := range hashes {
		hash, err := hex.DecodeString(text)
		var k APIKey
		if err != nil || !c.decode(bucketAPIKeys, hash, &k) || k.LastUsed >= body.LastUsed[text] {
			continue
		}
		k.LastUsed = body.LastUsed[text]
		c.encode(bucketAPIKeys, hash, &k)
	}
	return Result{}
}

// trim drops changes up to and including the floor.
func (c *command) trim(body *Trim) Result {
	floor := min(body.Floor, c.st.N)
	changes := c.tx.Bucket(bucketChanges)
	for n := c.st.Floor + 1; n <= floor && c.err == nil; n++ {
		key := revisionKey(n)
		row := changes.Get(key)
		c.st.ChangeBytes -= int64(len(key) + len(row))
		if err := changes.Delete(key); err != nil {
			c.fail(fmt.Errorf("trim change %d: %w", n, err))
		}
	}
	c.st.Floor = max(c.st.Floor, floor)
	return Result{}
}

func (c *command) raiseRules(body *RaiseRules) Result {
	before := c.st.Rules
	c.st.Rules = max(c.st.Rules, body.Rules)
	if before < RulesChains && c.st.Rules >= RulesChains {
		c.nameAccountsForApple()
	}
	if before < rulesAccounts && c.st.Rules >= rulesAccounts {
		c.hashNames()
		c.indexPurchases()
		c.publishOlderReadKeys()
	}
	return Result{}
}

// nameAccountsForApple gives every account the alias that createAccount gives to those made since. It is done once in the life of a cluster, in
// one command: about 2 s a million accounts.
func (c *command) nameAccountsForApple() {
	for _, env := range entitlement.Environments {
		c.Env = env
		prefix := []byte{envByte(env)}
		var ids []entitlement.AccountID
		cursor := c.tx.Bucket(bucketAccounts).Cursor()
		for k, _ := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
			ids = append(ids, entitlement.AccountID(k[len(prefix):]))
		}
		for _, id := range ids {
			c.nameForApple(id, entitlement.Alias{Kind: entitlement.AppleAppAccountToken, Value: id.AppleAppAccountToken()})
		}
	}
	c.Env = ""
}

// nameForApple makes an account found by the token that its app hands to StoreKit, and reports false where that name is taken.
func (c *command) nameForApple(id entitlement.AccountID, token entitlement.Alias) bool {
	key := aliasKey(c.Env, token)
	if c.get(bucketAliases, key) != nil {
		return false
	}
	c.put(bucketAliases, key, []byte(id))
	return true
}

// raiseEpoch starts a new epoch: what the change log holds belongs to a history that may have forked, so it goes, as a whole: change by change
// it would be one transaction of a day's writes.
func (c *command) raiseEpoch(*RaiseEpoch) Result {
	if !fault.Planted("epoch-repeats") {
		c.st.Epoch = max(c.st.Epoch+1, uint64(c.now))
	}
	c.st.Held = false
	c.st.Floor, c.st.ChangeBytes = c.st.N, 0
	c.fail(c.emptied(bucketChanges))
	return Result{}
}
