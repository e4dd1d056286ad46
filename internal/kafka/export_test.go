package kafka

import "time"

// SetClock makes now the time of this machine.
func (p *Producer) SetClock(now func() time.Time) { p.now = now }

// WrapSoon sets the sequence of a partition to n records before the largest.
func (p *Producer) WrapSoon(topic string, id int, n int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partitions[place{topic, id}].id.sequence = 1<<31 - 1 - n
}

// LastEpoch sets the epoch of a partition to the largest.
func (p *Producer) LastEpoch(topic string, id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partitions[place{topic, id}].id.epoch = 1<<15 - 1
}
