package store

import (
	"bytes"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// A push token lets who has it write to a person's phone. It comes sealed by the node that received it, as addresses do, and devices are told apart by an
// index that says nothing of them. Silent pushes are hints: nothing else depends on this.

// The platforms of devices. The words are part of the app API.
const (
	PlatformAPNS = "apns"
	PlatformFCM  = "fcm"
)

const (
	// MaxDevices is how many devices an account has; with one more the one that was heard of the longest ago goes.
	MaxDevices = 20
	// deviceIndexBytes is the length of an index, an HMAC-SHA256.
	deviceIndexBytes = 32
)

// PutDevice says how a device of an account is written to.
type PutDevice struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	Index       []byte                `cbor:"2,keyasint"` // of the device, 32 bytes
	Platform    string                `cbor:"3,keyasint"`
	Idempotency *Idempotency          `cbor:"5,keyasint,omitempty"`
	Sealed      []byte                `cbor:"-"` // the push token, which the command carries beside its body
}

func (b *PutDevice) idempotency() *Idempotency { return b.Idempotency }

func (b PutDevice) carried() []Sealed { return []Sealed{{DeviceText(b.Index), b.Sealed}} }

// deviceRow holds an account's devices, sorted by index.
type deviceRow struct {
	Devices []Device `cbor:"1,keyasint"`
}

// Device is one that can be written to.
type Device struct {
	Index    []byte `cbor:"1,keyasint"`
	Platform string `cbor:"2,keyasint"`
	Sealed   []byte `cbor:"-"`          // the push token; of the bucket personal
	SeenAt   int64  `cbor:"4,keyasint"` // when its app said so last, Unix seconds
}

func byDeviceIndex(d Device, index []byte) int { return bytes.Compare(d.Index, index) }

func (c *command) putDevice(body *PutDevice) Result {
	if len(body.Index) != deviceIndexBytes || body.Platform != PlatformAPNS && body.Platform != PlatformFCM {
		return rejected(SlugInvalidRequest, "device")
	}
	id := body.Account
	if !c.exists(id) {
		return rejected(SlugNotFound, "account")
	}
	key := envKey(c.Env, string(id))
	var row deviceRow
	c.decode(bucketDevices, key, &row)
	at, known := slices.BinarySearchFunc(row.Devices, body.Index, byDeviceIndex)
	device := Device{Index: body.Index, Platform: body.Platform, SeenAt: c.now}
	if known {
		row.Devices[at] = device
	} else {
		row.Devices = slices.Insert(row.Devices, at, device)
	}
	if len(row.Devices) > MaxDevices {
		oldest := -1
		for i, d := range row.Devices {
			if i != at && (oldest < 0 || d.SeenAt < row.Devices[oldest].SeenAt) {
				oldest = i
			}
		}
		c.forget(id, DeviceText(row.Devices[oldest].Index))
		row.Devices = slices.Delete(row.Devices, oldest, oldest+1)
	}
	c.keep(id, DeviceText(body.Index))
	c.encode(bucketDevices, key, &row)
	return Result{Account: id, Existing: known}
}

// forgetDevices removes an account's devices: for its erasure.
func (c *command) forgetDevices(id entitlement.AccountID) {
	c.delete(bucketDevices, envKey(c.Env, string(id)))
}

// Devices returns those of one account, sorted by index; those of accounts that it is merged with are theirs. Error: replication.ErrCorrupt.
func (r *Reader) Devices(env entitlement.Environment, id entitlement.AccountID) ([]Device, error) {
	var row deviceRow
	_, err := r.decode(bucketDevices, envKey(env, string(id)), &row)
	for i := range row.Devices {
		row.Devices[i].Sealed = bytes.Clone(r.PersonalText(env, id, DeviceText(row.Devices[i].Index)))
	}
	return row.Devices, err
}
