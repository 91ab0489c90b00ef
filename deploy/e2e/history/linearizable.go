package history

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Op is what a client asks of the server API.
type Op int

// The operations. Each concerns one account, but Lookup, which asks whose an alias is.
const (
	Link   Op = iota // gives the alias Name to the account
	Grant            // gives the entitlement Name to the account; a Name is used once
	Revoke           // takes the grant Name away
	Read             // shows the account's aliases and grants
	Lookup           // shows whose the alias Name is
)

var opNames = []string{"link", "grant", "revoke", "read", "lookup"}

func (o Op) String() string { return opNames[o] }

// Call is one request.
type Call struct {
	Op      Op
	Account string // empty for Lookup
	Name    string // empty for Read
}

// Answer is what came back.
type Answer struct {
	// Unknown says that no answer came, or one that leaves open whether the operation took effect.
	Unknown bool
	// Refused says that the operation had no effect: an alias of another account, a grant that is not there.
	Refused bool
	// Owner is whose the alias is: of a Lookup (empty: nobody's), and of a Link that was refused.
	Owner string
	// Aliases and Grants are what a Read showed, in any order.
	Aliases, Grants []string
}

// Recorder collects operations of many clients at once. The zero value is ready.
type Recorder struct {
	mu    sync.Mutex
	began time.Time
	done  []operation
	open  map[*Pending]bool
}

type operation struct {
	call           Call
	answer         Answer
	asked, replied int64 // nanoseconds since the first request
}

// Pending is a request that is under way. It ends with one of Done and Forget; one that has not ended by the time of Check counts as
// unknown.
type Pending struct {
	r         *Recorder
	operation operation
}

// Begin notes that the client sends a request now.
func (r *Recorder) Begin(call Call) *Pending {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.began, r.open = time.Now(), map[*Pending]bool{}
	}
	p := &Pending{r: r, operation: operation{call: call, asked: int64(time.Since(r.began))}}
	r.open[p] = true
	return p
}

// Done notes the answer.
func (p *Pending) Done(answer Answer) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if answer.Unknown {
		return // it stays open
	}
	delete(p.r.open, p)
	p.operation.answer, p.operation.replied = answer, int64(time.Since(p.r.began))
	p.r.done = append(p.r.done, p.operation)
}

// Forget takes the request back: it was never sent, or it was a read without an answer.
func (p *Pending) Forget() {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	delete(p.r.open, p)
}

// Verdict is what Check looked at.
type Verdict struct {
	Operations int // with an answer
	Unknown    int // of which nobody knows whether they took effect
	Objects    int // accounts and aliases
}

func (v Verdict) String() string {
	return fmt.Sprintf("%d operations with an answer and %d of unknown outcome on %d accounts and aliases", v.Operations, v.Unknown, v.Objects)
}

var (
	// ErrNotLinearizable means that no order of the operations explains the answers: some read was stale, or a write was lost or done twice.
	ErrNotLinearizable = errors.New("not linearizable")
	// ErrUndecided means that the search did not end in time. It says nothing about the system.
	ErrUndecided = errors.New("linearizability undecided in time")
)

// Check judges everything recorded, account by account and alias by alias. Where it fails, page is written: the history as porcupine
// draws it, to be opened in a browser. Errors: ErrNotLinearizable, naming the objects; ErrUndecided; one of the file.
func (r *Recorder) Check(within time.Duration, page string) (Verdict, error) {
	history, verdict := r.history()
	deadline := time.Now().Add(within)
	var wrong, open []string
	var first porcupine.LinearizationInfo
	for _, object := range slices.Sorted(maps.Keys(history)) {
		result, info := porcupine.CheckOperationsVerbose(model, history[object], max(time.Until(deadline), time.Millisecond))
		switch result {
		case porcupine.Illegal:
			if len(wrong) == 0 {
				first = info
			}
			wrong = append(wrong, object)
		case porcupine.Unknown:
			open = append(open, object)
		}
	}
	switch {
	case len(wrong) > 0:
		err := fmt.Errorf("%w: %s (%s)", ErrNotLinearizable, strings.Join(wrong, ", "), page)
		return verdict, errors.Join(err, porcupine.VisualizePath(model, first, page))
	case len(open) > 0:
		return verdict, fmt.Errorf("%w: %s", ErrUndecided, strings.Join(open, ", "))
	}
	return verdict, nil
}

// history returns the operations by the object that they concern. A link concerns two: the account, and the alias that can have one
// owner. Each object's history must be explained by itself; that is weaker than explaining both at one instant, and can be searched.
func (r *Recorder) history() (map[string][]porcupine.Operation, Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	verdict := Verdict{Operations: len(r.done), Unknown: len(r.open)}
	all := slices.Clone(r.done)
	end := int64(time.Since(r.began))
	for p := range r.open {
		o := p.operation
		o.answer, o.replied = Answer{Unknown: true}, end
		all = append(all, o)
	}
	objects := map[string][]porcupine.Operation{}
	add := func(object string, o operation, whole bool) {
		objects[object] = append(objects[object], porcupine.Operation{
			Input: input{Call: o.call, asRegister: !whole}, Output: o.answer, Call: o.asked, Return: o.replied,
		})
	}
	for _, o := range all {
		if o.call.Op != Lookup {
			add("account "+o.call.Account, o, true)
		}
		if o.call.Op == Lookup || o.call.Op == Link {
			add("alias "+o.call.Name, o, false)
		}
	}
	for _, operations := range objects {
		assignClients(operations)
	}
	verdict.Objects = len(objects)
	return objects, verdict
}

// assignClients puts operations that do not overlap onto one line of the drawing.
func assignClients(operations []porcupine.Operation) {
	slices.SortFunc(operations, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var free []int64 // by line: until when it is taken
	for i := range operations {
		line := slices.IndexFunc(free, func(until int64) bool { return until < operations[i].Call })
		if line < 0 {
			line = len(free)
			free = append(free, 0)
		}
		free[line] = operations[i].Return
		operations[i].ClientId = line
	}
}

// input is a call as the model takes it: as one on an account, or on an alias, which is a register that is written once.
type input struct {
	Call
	asRegister bool
}

// model is what one account, or one alias, does when nobody disturbs it. An account's state is the sorted list of what it has, one a
// line; an alias's is its owner.
var model = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		call, answer := in.(input), out.(Answer)
		if call.asRegister {
			return stepAlias(state.(string), call.Call, answer)
		}
		return stepAccount(state.(string), call.Call, answer)
	},
	DescribeOperation: func(in, out any) string { return describe(in.(input).Call, out.(Answer)) },
	DescribeState: func(state any) string {
		return "{" + strings.ReplaceAll(strings.TrimSuffix(state.(string), "\n"), "\n", ", ") + "}"
	},
}

func stepAlias(owner string, call Call, answer Answer) (bool, any) {
	switch {
	case call.Op == Lookup:
		return answer.Unknown || answer.Owner == owner, owner
	case answer.Unknown:
		if owner == "" {
			owner = call.Account
		}
		return true, owner
	case answer.Refused:
		return owner != "" && owner != call.Account && owner == answer.Owner, owner
	}
	return owner == "" || owner == call.Account, call.Account
}

func stepAccount(state string, call Call, answer Answer) (bool, any) {
	has := split(state)
	name := "grant " + call.Name
	if call.Op == Link {
		name = "alias " + call.Name
	}
	at, there := slices.BinarySearch(has, name)
	switch call.Op {
	case Read:
		return answer.Unknown || slices.Equal(has, shown(answer)), state
	case Link, Grant:
		if answer.Refused {
			return !there, state
		}
		if !there {
			has = slices.Insert(has, at, name)
		}
		return call.Op == Link || !there || answer.Unknown, join(has)
	case Revoke:
		if there && !answer.Refused {
			has = slices.Delete(has, at, at+1)
		}
		return answer.Unknown || there != answer.Refused, join(has)
	}
	return false, state
}

func shown(answer Answer) []string {
	var all []string
	for _, a := range answer.Aliases {
		all = append(all, "alias "+a)
	}
	for _, g := range answer.Grants {
		all = append(all, "grant "+g)
	}
	slices.Sort(all)
	return all
}

// split and join turn an account's state into a list and back.
func split(state string) []string {
	if state == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(state, "\n"), "\n")
}

func join(has []string) string {
	var b strings.Builder
	for _, name := range has {
		b.WriteString(name)
		b.WriteByte('\n')
	}
	return b.String()
}

func describe(call Call, answer Answer) string {
	text := strings.TrimSpace(fmt.Sprintf("%s %s %s", call.Op, call.Account, call.Name))
	switch {
	case answer.Unknown:
		return text + " -> ?"
	case call.Op == Read:
		return text + " -> {" + strings.Join(shown(answer), ", ") + "}"
	case call.Op == Lookup:
		return text + " -> " + answer.Owner
	case answer.Refused:
		return text + " -> refused " + answer.Owner
	}
	return text + " -> done"
}
