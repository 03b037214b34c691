// peer serve BIG VERSION CHAIN KEY [CA]    a server that knows GET (sends the file BIG) and PUT N (says the digest of N bytes)
// peer connect BIG VERSION CA PORT FILE [CHAIN KEY]    sends FILE to an echo, checks what comes back, twice: the second time
// resumed. VERSION is 1.2, 1.3 or any; behind it a curve (1.3,P384). The certificates of clients are asked for if CA is given.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

func must(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func config(version string) *tls.Config {
	c := &tls.Config{}
	words := strings.Split(version, ",")
	switch words[0] {
	case "1.2":
		c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	case "1.3":
		c.MinVersion = tls.VersionTLS13
	}
	for _, w := range words[1:] {
		c.CurvePreferences = append(c.CurvePreferences, map[string]tls.CurveID{"X25519": tls.X25519, "P256": tls.CurveP256, "P384": tls.CurveP384, "P521": tls.CurveP521}[w])
	}
	return c
}

func roots(file string) *x509.CertPool {
	pem, err := os.ReadFile(file)
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

func serveOne(c net.Conn, big []byte) {
	defer c.Close()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var n int64
	if strings.HasPrefix(line, "GET") {
		c.Write(big)
	} else if _, err := fmt.Sscanf(line, "PUT %d", &n); err == nil {
		h := sha256.New()
		io.CopyN(h, r, n)
		fmt.Fprintf(c, "%x\n", h.Sum(nil))
	}
}

func main() {
	big, err := os.ReadFile(os.Args[2])
	must(err)
	c := config(os.Args[3])
	a := os.Args[4:]
	if os.Args[1] == "serve" {
		pair, err := tls.LoadX509KeyPair(a[0], a[1])
		must(err)
		c.Certificates = []tls.Certificate{pair}
		if len(a) > 2 {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, roots(a[2])
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", c)
		must(err)
		fmt.Println("port", l.Addr().(*net.TCPAddr).Port)
		for {
			s, err := l.Accept()
			must(err)
			go serveOne(s, big)
		}
	}
	c.RootCAs = roots(a[0])
	c.ServerName = "localhost"
	c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	if len(a) > 3 {
		pair, err := tls.LoadX509KeyPair(a[3], a[4])
		must(err)
		c.Certificates = []tls.Certificate{pair}
	}
	data, err := os.ReadFile(a[2])
	must(err)
	for i := 0; i < 2; i++ {
		s, err := tls.Dial("tcp", "127.0.0.1:"+a[1], c)
		must(err)
		go s.Write(data)
		got := make([]byte, len(data))
		_, err = io.ReadFull(s, got)
		must(err)
		if !bytes.Equal(got, data) {
			fmt.Println("the echo is wrong")
			os.Exit(1)
		}
		state := s.ConnectionState()
		how := "full"
		if state.DidResume {
			how = "resumed"
		}
		fmt.Printf("%x %s %s\n", state.Version, tls.CipherSuiteName(state.CipherSuite), how)
		s.Close()
	}
}
