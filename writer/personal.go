package writer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Attributes, reasons and personal aliases are sealed like addresses, by the node that receives them; see store.Sealed for where they are kept.

// attributeKeyBytes is how much of an HMAC stands for an attribute's name: no two of an account's hundred have the same.
const attributeKeyBytes = 12

// sealsPersonal reports whether personal texts are sealed by now. While an older writer is among them they are not: it could not read the commands.
func (w *Writer) sealsPersonal() bool { return w.store.Position().Rules >= store.RulesPersonal }

// sealingText returns the node's sealer for what a request says of a person. Error: a not-configured problem.
func (w *Writer) sealingText(what string) (*sealer, error) {
	if w.sealer == nil {
		return nil, problem.Newf(problem.NotConfigured, "No contacts.key is configured, without which no %s is taken.", what)
	}
	return w.sealer, nil
}

// attribute is what is sealed of one.
type attribute struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func attributePlace(id entitlement.AccountID, key string) string {
	return "attribute\x00" + string(id) + "\x00" + key
}

func reasonPlace(id entitlement.AccountID, grant string) string {
	return "reason\x00" + string(id) + "\x00" + grant
}

func aliasPlace(hashed entitlement.Alias) string { return "alias\x00" + store.AliasText(hashed) }

// sealAttributes returns what a command says of changed attributes, an empty value deleting one. clear are the names of those that are kept as older rules did.
func (s *sealer) sealAttributes(env entitlement.Environment, id entitlement.AccountID, attributes map[string]string, clear []string) (*store.AttributeChanges, []store.Sealed) {
	if len(attributes) == 0 {
		return nil, nil
	}
	changes, texts := &store.AttributeChanges{}, []store.Sealed(nil)
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		key := hex.EncodeToString(s.mac(env, "attribute\x00"+string(id), []byte(name))[:attributeKeyBytes])
		if slices.Contains(clear, name) {
			changes.Clear = append(changes.Clear, name)
		}
		if attributes[name] == "" {
			changes.Gone = append(changes.Gone, key)
			continue
		}
		text, err := json.Marshal(attribute{name, attributes[name]})
		if err != nil {
			panic(err) // two strings
		}
		changes.Set = append(changes.Set, key)
		texts = append(texts, store.Sealed{Name: store.AttributeText(key), Text: s.seal(env, attributePlace(id, key), string(text))})
	}
	return changes, texts
}

// clearAttributes names the attributes of an account that are kept as older rules did. They only ever become fewer, so that this node's own state will do.
func (c *apiCall) clearAttributes(id entitlement.AccountID) (names []string, err error) {
	err = c.store.View(func(reader *store.Reader) error {
		names, err = reader.ClearAttributes(c.env, id)
		return err
	})
	return names, err
}

// aliasesToKeep returns aliases as they are proposed: personal ones hashed, with their texts sealed where there is a key. Without one they are known by
// their hashes alone, which find the account as well.
func (w *Writer) aliasesToKeep(env entitlement.Environment, aliases ...entitlement.Alias) ([]entitlement.Alias, []store.Sealed) {
	if !w.sealsPersonal() {
		return aliases, nil
	}
	var kept []entitlement.Alias
	var texts []store.Sealed
	for _, a := range aliases {
		hashed := a.Hashed()
		kept = append(kept, hashed)
		if hashed != a && w.sealer != nil {
			texts = append(texts, store.Sealed{Name: store.AliasText(hashed), Text: w.sealer.seal(env, aliasPlace(hashed), a.Value)})
		}
	}
	return kept, texts
}

// hashedSince returns an alias by which an account is looked for, as the rules keep it.
func hashedSince(rules uint32, a entitlement.Alias) entitlement.Alias {
	if rules >= store.RulesPersonal {
		return a.Hashed()
	}
	return a
}

// veiledKey is the idempotency of a request that says something of a person: see veiled.
func (c *apiCall) veiledKey() (*store.Idempotency, error) {
	key, err := c.idempotency()
	if err != nil || c.sealer == nil || !c.sealsPersonal() {
		return key, err
	}
	return c.veiled(c.sealer, key), nil
}

// shownAliases returns aliases with what hashed ones stand for, as far as this node can read it.
func (c *apiCall) shownAliases(reader *store.Reader, names []store.NamedAlias) []store.NamedAlias {
	shown := slices.Clone(names)
	for i := range shown {
		n := &shown[i]
		sealed := reader.PersonalText(c.env, n.Account, store.AliasText(n.Alias))
		if text, err := c.sealer.open(c.env, aliasPlace(n.Alias), sealed); err == nil {
			n.Value = text
		} else if n.Text != "" {
			n.Value = n.Text
		}
	}
	return shown
}

// attributesOf opens the attributes of accounts that are merged, the survivor's own before those of others. unread counts those that were sealed with another key.
func (c *apiCall) attributesOf(reader *store.Reader, detail *store.AccountDetail) (attributes map[string]string, unread int) {
	attributes = maps.Clone(detail.Attributes)
	for _, id := range slices.Backward(detail.Accounts) {
		for _, s := range reader.Personal(c.env, id) {
			key, ok := bytes.CutPrefix([]byte(s.Name), []byte(store.AttributeText("")))
			if !ok {
				continue
			}
			var one attribute
			text, err := c.sealer.open(c.env, attributePlace(id, string(key)), s.Text)
			if err != nil || json.Unmarshal([]byte(text), &one) != nil {
				unread++
				continue
			}
			attributes[one.Name] = one.Value
		}
	}
	return attributes, unread
}

// reasonOf opens why a grant was given; empty where nothing was said, or with another key.
func (c *apiCall) reasonOf(reader *store.Reader, detail *store.AccountDetail, grant string) string {
	if text := detail.GrantReasons[grant]; text != "" {
		return text
	}
	for _, id := range detail.Accounts {
		if text, err := c.sealer.open(c.env, reasonPlace(id, grant), reader.PersonalText(c.env, id, store.ReasonText(grant))); err == nil {
			return text
		}
	}
	return ""
}
