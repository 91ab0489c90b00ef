package store

import (
	"crypto/sha256"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

func oidcSubject(value string) entitlement.Alias {
	return entitlement.Alias{Kind: entitlement.OIDCSubject, Value: value}
}

// TestEdgesLearnWhoMayAsk: keys that may read and subjects of identity providers reach the edges as records, and go when they end; what was there before the
// rules knew of such records gets them when the rules are raised.
func TestEdgesLearnWhoMayAsk(t *testing.T) {
	const subject = "https://id.example.com/|user 1"
	reads, writes := sha256.Sum256([]byte("reads")), sha256.Sum256([]byte("writes"))
	key := func(hash [32]byte, name, scope string) Command {
		return NewCommand(TypeAddAPIKey, sandbox, name, AddAPIKey{Hash: hash[:], Name: name, Scope: scope})
	}
	for _, from := range []uint32{rulesAccounts, RulesChains} {
		m := newMachineUnder(t, 1<<20, from)
		has := func(what string, kind replication.Kind, key string, want bool) {
			t.Helper()
			m.check()
			var found bool
			m.read(func(r *Reader) (err error) {
				_, found, err = r.Record(sandbox, kind, key)
				return err
			})
			if found != want {
				t.Errorf("from rules %d on: a record of %s: %t, want %t", from, what, found, want)
			}
		}
		m.apply(key(reads, "reads", "rk"))
		m.apply(key(writes, "writes", "sk"))
		m.apply(create("acc_1", oidcSubject(subject)))
		if from < rulesAccounts {
			has("a key, under older rules", replication.KindKeys, replication.ReadKey(reads), false)
			has("a subject, under older rules", replication.KindPointer, entitlement.SubjectKey(subject), false)
			m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
		}
		has("a key that reads", replication.KindKeys, replication.ReadKey(reads), true)
		has("a key that writes", replication.KindKeys, replication.ReadKey(writes), false)
		has("a subject", replication.KindPointer, entitlement.SubjectKey(subject), true)
		m.apply(NewCommand(TypeAddAlias, sandbox, "", AddAlias{Account: "acc_1", Alias: oidcSubject("later")}))
		has("a subject added later", replication.KindPointer, entitlement.SubjectKey("later"), true)
		m.apply(NewCommand(TypeRevokeAPIKey, sandbox, "", RevokeAPIKey{Name: "reads"}))
		has("a revoked key", replication.KindKeys, replication.ReadKey(reads), false)
		m.apply(key(reads, "reads", "rk"))
		has("a revoked key that the configuration still has", replication.KindKeys, replication.ReadKey(reads), false)
	}
}
