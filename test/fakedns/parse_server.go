package fakedns

import (
	"fmt"
	"strings"
	"time"
)

// ParseServer reads what a server is:
//
//	[rtt D] [jitter D] [zone Z,...] [except Z,...] [view NAME] [max-udp N] [else FAULT]
//
// Without zone it knows everything. The fault after else, which has neither
// time nor filter and takes the rest of the line, is what it says of names that it does not know.
func ParseServer(line string) (*Server, error) {
	s := &Server{Zones: []string{"."}}
	words := strings.Fields(line)
	for len(words) > 0 {
		if words[0] == "else" {
			f, err := ParseFault(strings.Join(words[1:], " "))
			if err != nil {
				return nil, err
			}
			s.Else = f
			break
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("fakedns: server %q: %s needs a value", line, words[0])
		}
		if err := s.property(words[0], words[1]); err != nil {
			return nil, fmt.Errorf("fakedns: server %q: %w", line, err)
		}
		words = words[2:]
	}
	return s, nil
}

func (s *Server) property(word, v string) (err error) {
	switch word {
	case "rtt":
		s.RTT, err = time.ParseDuration(v)
	case "jitter":
		s.Jitter, err = time.ParseDuration(v)
	case "zone":
		s.Zones = zones(v)
	case "except":
		s.Except = zones(v)
	case "view":
		s.View = v
	case "max-udp":
		_, err = fmt.Sscanf(v, "%d", &s.MaxUDP)
	default:
		err = fmt.Errorf("unknown word %q", word)
	}
	return err
}
