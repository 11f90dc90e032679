//go:build !linux || !(amd64 || arm64)

package exchange

// readBatches is for Linux.
func (s *udpSocket) readBatches() (bool, error) { return false, nil }
