package store

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the store's, all there and zero from the start. Labels come from short closed lists.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector

	commands     *prometheus.CounterVec // by outcome; "too_large" and "conflicting" are to be alarmed about
	refused      *prometheus.CounterVec // by reason
	applySeconds prometheus.Histogram
	applyBatch   prometheus.Histogram
	logSeconds   prometheus.Histogram
	snapshots    prometheus.Counter
	restores     prometheus.Counter
	leader       prometheus.Gauge
	applied      prometheus.Gauge
	revision     prometheus.Gauge
	changeBytes  prometheus.Gauge
	journalBytes prometheus.Gauge
	segments     prometheus.Gauge
	compared     prometheus.Gauge
	differences  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{registerer: r}
	name := func(n string) string { return "latchkey_writer_store_" + n }
	gauge := func(n, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name(n), Help: help})
		m.all = append(m.all, g)
		return g
	}
	counter := func(n, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name(n), Help: help})
		m.all = append(m.all, c)
		return c
	}
	histogram := func(n, help string, start, factor float64, count int) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name(n), Help: help, Buckets: prometheus.ExponentialBuckets(start, factor, count)})
		m.all = append(m.all, h)
		return h
	}
	vec := func(n, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(n), Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		m.all = append(m.all, v)
		return v
	}
	m.commands = vec("commands_total", "Commands applied, by outcome.", "outcome", string(Recorded), string(Unhandled), string(Unreadable),
		string(Conflicting), string(WrongEnvironment), string(TooLarge), string(Rejected))
	m.refused = vec("proposals_refused_total", "Proposals refused before the log, by reason.", "reason", "busy", "clock")
	m.applySeconds = histogram("apply_seconds", "Time to apply one batch of log entries.", 0.0001, 4, 8)
	m.applyBatch = histogram("apply_batch_entries", "Log entries in a batch.", 1, 4, 5)
	m.logSeconds = histogram("log_write_seconds", "Time of one synced write to the Raft log.", 0.0001, 4, 8)
	m.snapshots = counter("snapshots_total", "Raft snapshots taken.")
	m.restores = counter("restores_total", "Raft snapshots restored.")
	m.leader = gauge("leader", "1 while this node leads.")
	m.applied = gauge("applied_index", "Log index of the last command in the state.")
	m.revision = gauge("revision", "Number of the last revision.")
	m.changeBytes = gauge("change_log_bytes", "Size of the change log.")
	m.journalBytes = gauge("journal_tail_bytes", "Size of the journal's unsealed segment.")
	m.segments = gauge("journal_segment", "Number of the journal's unsealed segment.")
	m.compared = gauge("compared_index", "Newest log index at which this node's state was found to be another's.")
	m.differences = counter("differences_total", "Comparisons that found writers with different states at one log index.")
	if r == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := r.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

func (m *metrics) observe(st *state) {
	m.applied.Set(float64(st.Applied))
	m.revision.Set(float64(st.N))
	m.changeBytes.Set(float64(st.ChangeBytes))
	m.journalBytes.Set(float64(st.SegmentOffset))
	m.segments.Set(float64(st.Segment))
}
