package volume

import (
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// space asks the file system at each scrape.
type space struct{ dir string }

var (
	freeDesc = prometheus.NewDesc("taskwire_volume_free_bytes", "Bytes that this service can still write to the file system with its data.", nil, nil)
	sizeDesc = prometheus.NewDesc("taskwire_volume_size_bytes", "Size of the file system with the data of this service.", nil, nil)
)

// Space measures the file system of dir. A folder that cannot be asked has no
// metrics; the service says so in its readiness.
func Space(dir string) prometheus.Collector { return space{dir} }

// Describe implements prometheus.Collector.
func (space) Describe(ch chan<- *prometheus.Desc) {
	ch <- freeDesc
	ch <- sizeDesc
}

// Collect implements prometheus.Collector.
func (s space) Collect(ch chan<- prometheus.Metric) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &st); err != nil {
		return
	}
	block := float64(st.Bsize)
	ch <- prometheus.MustNewConstMetric(freeDesc, prometheus.GaugeValue, float64(st.Bavail)*block)
	ch <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, float64(st.Blocks)*block)
}
