package system

import "strings"

// greet tells the user where everything is and what to try first.
func (s *System) greet() {
	info := s.Info()
	var b strings.Builder
	b.WriteString("Latchkey is ready.\n")
	for _, n := range info.Writers {
		b.WriteString("  writer " + n.ID + "  " + n.URL + "  (webhooks and server API)\n")
	}
	for _, n := range info.Edges {
		b.WriteString("  edge   " + n.ID + "  " + n.URL + "  (app API)\n")
	}
	b.WriteString("  keys, secrets and addresses: " + s.infoPath() + "\n")
	b.WriteString("  data and logs:               " + s.config.Dir + "\n\n")
	if len(info.Edges) > 0 {
		b.WriteString("Try, one after the other: make an account, give it \"pro\" for 30 days, ask an edge as its app would.\n\n")
		for _, command := range s.commands() {
			b.WriteString("  " + command + "\n\n")
		}
	}
	b.WriteString("A whole purchase with its refund: latchkey-dev --demo. Stop with ^C.")
	s.say("%s", b.String())
}

// commands are three commands for a shell, to be run in this order.
func (s *System) commands() []string {
	info := s.Info()
	writer, edge := info.Writers[0].URL, info.Edges[0].URL
	auth := ` -H "Authorization: Bearer ` + info.Environments["sandbox"].ServerKey + `"`
	return []string{
		`ACCOUNT=$(curl -sS -X POST ` + writer + `/v1/accounts` + auth + ` -d '{"aliases":[],"attributes":{}}' | grep -o 'acc_[0-9A-Za-z]*' | head -n 1); echo "$ACCOUNT"`,
		`curl -sS -X POST ` + writer + `/v1/accounts/$ACCOUNT/grants` + auth + ` -d '{"entitlement":"pro","duration_days":30,"reason":"tried latchkey-dev"}'`,
		`curl -sS ` + edge + `/v1/entitlements -H "Authorization: Bearer $(curl -sS -X POST ` + writer + `/v1/accounts/$ACCOUNT/sessions` + auth +
			` -d '{"device_id":"laptop"}' | sed 's/.*"session_token": *"\([^"]*\)".*/\1/')"`,
	}
}
