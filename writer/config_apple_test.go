package writer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

func TestAppleConfiguration(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "root.der")
	if err := os.WriteFile(broken, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		apple AppleConfig
		want  []string
	}{
		{"a bundle is enough", AppleConfig{BundleID: "com.example.app"}, nil},
		{"no bundle", AppleConfig{}, []string{"environments.sandbox.apple.bundle_id"}},
		{"a bundle that is none", AppleConfig{BundleID: "an app"}, []string{"environments.sandbox.apple.bundle_id"}},
		{"a negative app id", AppleConfig{BundleID: "com.example.app", AppAppleID: -1}, []string{"environments.sandbox.apple.app_apple_id"}},
		{"a root that is not there", AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{"/nowhere"}}, []string{"environments.sandbox.apple.root_ca_files"}},
		{"a root that is none", AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{broken}}, []string{"environments.sandbox.apple.root_ca_files"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfigs(t, 1)[0]
			e := cfg.Environments[entitlement.Sandbox]
			e.Apple = &tt.apple
			cfg.Environments[entitlement.Sandbox] = e
			_ = mistaken(t, &cfg, tt.want)
		})
	}
}
