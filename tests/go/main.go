// A peer of golang/groupcache, for the tests beside it.
//
// It binds its ports first and then says where it is, on stdout: "ready front=ADDR listen=ADDR".
// Peers reach it at listen. Who tests it uses the front:
//
//	PUT  /peers         one URL on each line: the peers, this one included
//	GET  /get?key=K     the value of K, by group.Get
//	POST /owners        a JSON list of keys -> the list of their owners' URLs
//	POST /get-many      a JSON list of keys -> [{"Value": base64, "Error": text}, ...]
//	GET  /loads?key=K   how often the loader ran for K; without a key, for all
//	POST /hold?key=K    loads of K do not end before
//	POST /release?key=K this
//	GET  /stats         the counters of the group, as JSON
//
// It ends on SIGTERM, and when its stdin is closed: with whoever started it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/golang/groupcache"
	"github.com/golang/groupcache/consistenthash"
)

const cacheBytes = 64 << 20

// What HTTPPool uses by default.
const replicas = 50

var (
	listen = flag.String("listen", "127.0.0.1:0", "where peers reach this process")
	front  = flag.String("front", "127.0.0.1:0", "where the test reaches it")
	self   = flag.String("self", "", "this process in the list of peers (default: of -listen)")
	group  = flag.String("group", "things", "the name of the group")
)

func main() {
	flag.Parse()
	peerListener, frontListener := bind(*listen), bind(*front)
	if *self == "" {
		*self = "http://" + peerListener.Addr().String()
	}
	source := &source{loads: map[string]int{}, held: map[string]chan struct{}{}}
	// The usual way: the pool is a handler of http.DefaultServeMux.
	pool := groupcache.NewHTTPPool(*self)
	things := groupcache.NewGroup(*group, cacheBytes, groupcache.GetterFunc(source.load))
	go serve(peerListener, http.DefaultServeMux)
	go serve(frontListener, (&desk{source: source, pool: pool, group: things}).routes())
	fmt.Printf("ready front=%s listen=%s\n", frontListener.Addr(), peerListener.Addr())
	waitForEnd()
}

func bind(address string) net.Listener {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func serve(listener net.Listener, handler http.Handler) {
	log.Fatal(http.Serve(listener, handler))
}

func waitForEnd() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		end <- syscall.SIGTERM
	}()
	<-end
}

// The source of values: the loader, which counts.
type source struct {
	mu    sync.Mutex
	loads map[string]int
	all   int
	held  map[string]chan struct{}
}

func (s *source) load(_ context.Context, key string, dest groupcache.Sink) error {
	s.mu.Lock()
	s.loads[key]++
	s.all++
	held := s.held[key]
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	if strings.HasPrefix(key, "missing") {
		return errors.New("there is no value for this key")
	}
	return dest.SetBytes(valueOf(key))
}

// As the loader of the nodes beside it makes them: "value of KEY", and for "large-N" a pattern of N
// bytes.
func valueOf(key string) []byte {
	value := []byte("value of " + key)
	digits := strings.TrimPrefix(key, "large-")
	length, err := strconv.Atoi(digits)
	if digits == key || err != nil {
		return value
	}
	large := make([]byte, length)
	for at := range large {
		large[at] = value[at%len(value)] ^ byte(at>>8)
	}
	return large
}

func (s *source) count(key string, one bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one {
		return s.loads[key]
	}
	return s.all
}

func (s *source) hold(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[key] = make(chan struct{})
}

func (s *source) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.held[key])
	delete(s.held, key)
}

// What the test may ask.
type desk struct {
	source *source
	pool   *groupcache.HTTPPool
	group  *groupcache.Group

	mu sync.Mutex
	// The ring again, as the pool does not say who owns a key, only whether it is a peer.
	ring *consistenthash.Map
}

func (d *desk) routes() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("/peers", d.setPeers)
	routes.HandleFunc("/get", d.get)
	routes.HandleFunc("/get-many", d.getMany)
	routes.HandleFunc("/owners", d.owners)
	routes.HandleFunc("/stats", d.stats)
	routes.HandleFunc("/loads", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, d.source.count(r.URL.Query().Get("key"), r.URL.Query().Has("key")))
	})
	routes.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		d.source.hold(r.URL.Query().Get("key"))
	})
	routes.HandleFunc("/release", func(w http.ResponseWriter, r *http.Request) {
		d.source.release(r.URL.Query().Get("key"))
	})
	return routes
}

func (d *desk) setPeers(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	peers := strings.Fields(string(body))
	ring := consistenthash.New(replicas, nil)
	ring.Add(peers...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pool.Set(peers...)
	d.ring = ring
}

func (d *desk) get(w http.ResponseWriter, r *http.Request) {
	var value []byte
	key := r.URL.Query().Get("key")
	if err := d.group.Get(r.Context(), key, groupcache.AllocatingByteSliceSink(&value)); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Write(value)
}

func (d *desk) getMany(w http.ResponseWriter, r *http.Request) {
	type got struct {
		Value []byte
		Error string
	}
	all := []got{}
	for _, key := range keys(r) {
		var one got
		if err := d.group.Get(r.Context(), key, groupcache.AllocatingByteSliceSink(&one.Value)); err != nil {
			one.Error = err.Error()
		}
		all = append(all, one)
	}
	json.NewEncoder(w).Encode(all)
}

func (d *desk) owners(w http.ResponseWriter, r *http.Request) {
	owners := []string{}
	for _, key := range keys(r) {
		d.mu.Lock()
		owner := d.ring.Get(key)
		d.mu.Unlock()
		if _, isPeer := d.pool.PickPeer(key); isPeer != (owner != *self) {
			http.Error(w, "the pool has another ring", http.StatusInternalServerError)
			return
		}
		owners = append(owners, owner)
	}
	json.NewEncoder(w).Encode(owners)
}

func (d *desk) stats(w http.ResponseWriter, r *http.Request) {
	json.NewEncoder(w).Encode(&d.group.Stats)
}

func keys(r *http.Request) (keys []string) {
	if err := json.NewDecoder(r.Body).Decode(&keys); err != nil {
		log.Print(err)
	}
	return keys
}
