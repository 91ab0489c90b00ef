package identity

import (
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/token"
)

// Config is one identity provider of an environment. Writers and edges must have the same.
type Config struct {
	// Issuer is the iss of its tokens, to the letter: "https://appleid.apple.com", "https://securetoken.google.com/<project>", "https://<tenant>.auth0.com/".
	Issuer string `config:"issuer"`

	// Audiences are the apps that its tokens may be for: Apple's bundle id or services id, Firebase's project id, Auth0's client id.
	Audiences []string `config:"audiences"`

	// Algorithms are those that it signs with. None: RS256 and ES256.
	Algorithms []string `config:"algorithms"`

	// JWKSURL is where it publishes its keys, https:// (http:// on a loopback address). Either this or JWKSFile.
	JWKSURL string `config:"jwks_url"`

	// JWKSFile is a file with its keys, read anew when it changes.
	JWKSFile string `config:"jwks_file"`

	// SubjectClaim is the claim that names the user for ever. Empty is sub.
	SubjectClaim string `config:"subject_claim"`
}

// maxIssuerBytes leaves most of what an alias may have to the subject.
const maxIssuerBytes = 256

// Validate notes what is wrong with the providers of an environment, whose field is at.
func Validate(list []Config, at string, m *config.Mistakes) {
	for i := range list {
		c, at := &list[i], at+"["+strconv.Itoa(i)+"]"
		if c.Issuer == "" || len(c.Issuer) > maxIssuerBytes || strings.Contains(c.Issuer, "|") {
			m.Add(at+".issuer", "want 1 to %d bytes without |", maxIssuerBytes)
		}
		if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
			m.Add(at+".audiences", "is missing: a token for another app must not open this one")
		}
		for _, name := range c.Algorithms {
			if !token.ValidSignInAlgorithm(name) {
				m.Add(at+".algorithms", "%q is none of %s", name, strings.Join(token.SignInAlgorithms, ", "))
			}
		}
		switch {
		case (c.JWKSURL == "") == (c.JWKSFile == ""):
			m.Add(at+".jwks_url", "give either jwks_url or jwks_file")
		case c.JWKSFile != "":
			text, err := os.ReadFile(c.JWKSFile)
			if err == nil {
				_, err = parseKeys(text)
			}
			if err != nil {
				m.Add(at+".jwks_file", "%v", err)
			}
		case !fetchable(c.JWKSURL):
			m.Add(at+".jwks_url", "want https://, or http:// on a loopback address: whoever can change the keys can be anybody")
		}
	}
}

// Apart notes providers that two environments share with an audience: a token could not tell which of the two it is for.
func Apart(lists map[string][]Config, at func(environment string) string, m *config.Mistakes) {
	type app struct{ issuer, audience string }
	owner := map[app]string{}
	for _, env := range sortedKeys(lists) {
		for i, c := range lists[env] {
			for _, audience := range c.Audiences {
				a := app{c.Issuer, audience}
				if other, taken := owner[a]; taken {
					m.Add(at(env)+"["+strconv.Itoa(i)+"].audiences", "issuer and audience are those of %s too: a token could not tell for which of them it is", other)
				}
				owner[a] = env
			}
		}
	}
}

func sortedKeys(lists map[string][]Config) []string {
	var names []string
	for name := range lists {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func fetchable(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && ip.IsLoopback())
}
