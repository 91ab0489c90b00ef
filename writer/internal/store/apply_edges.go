package store

import (
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// API keys that may read and do nothing else are taken at edges as well: a record of each valid one tells them its hash. An edge can recognise a key that it is
// shown, and can make none.

const scopeRead = "rk" // of such keys

func readKeyRecord(env entitlement.Environment, hash []byte) replication.Record {
	return replication.Record{Env: env, Kind: replication.KindKeys, Key: replication.ReadKey([32]byte(hash)), Value: replication.ReadKeyValue()}
}

// publishReadKey tells the edges of a key that may read.
func (c *command) publishReadKey(k *APIKey) {
	if c.st.Rules >= rulesAccounts && k.Scope == scopeRead && k.RevokedAt == 0 {
		c.write(readKeyRecord(k.Env, k.Hash))
	}
}

// unpublishReadKey takes it back.
func (c *command) unpublishReadKey(k *APIKey) {
	if c.st.Rules >= rulesAccounts && k.Scope == scopeRead {
		r := readKeyRecord(k.Env, k.Hash)
		c.erase(r.Env, r.Kind, r.Key)
	}
}

// publishOlderReadKeys makes the records of keys that were there before the rules had any: once in the life of a cluster.
func (c *command) publishOlderReadKeys() {
	for _, k := range c.apiKeys() {
		c.publishReadKey(&k)
	}
}
