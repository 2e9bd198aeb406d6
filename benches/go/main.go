// The original groupcache, as a rival of the benches: a server that owns all keys, and a client
// that mirrors none and so asks for each.
//
//	main server           says "ready ADDRESS" and serves until its input ends
//	main client ADDRESS   for each line "BYTES THREADS GETS WARM KEYS" of its input says
//	                      "GETS-PER-SECOND P50 P99", with times in nanoseconds
//
// The values of a key have the number of bytes before its dash.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang/groupcache"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "server":
		serve()
	case len(os.Args) == 3 && os.Args[1] == "client":
		ask(os.Args[2])
	default:
		log.Fatal("say server, or client ADDRESS")
	}
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	self := "http://" + listener.Addr().String()
	pool := groupcache.NewHTTPPoolOpts(self, nil)
	pool.Set(self)
	groupcache.NewGroup("peer", 64<<20, groupcache.GetterFunc(
		func(_ context.Context, key string, dest groupcache.Sink) error {
			bytes, err := strconv.Atoi(strings.SplitN(key, "-", 2)[0])
			if err != nil {
				return err
			}
			return dest.SetBytes(make([]byte, bytes))
		}))
	go func() { log.Fatal(http.Serve(listener, pool)) }()
	fmt.Println("ready", listener.Addr())
	io.Copy(io.Discard, os.Stdin)
}

func ask(server string) {
	// All as it is by default, but for room for a connection of each of the threads.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = transport.MaxIdleConns
	pool := groupcache.NewHTTPPoolOpts("http://client", nil)
	pool.Transport = func(context.Context) http.RoundTripper { return transport }
	pool.Set("http://" + server)
	group := groupcache.NewGroup("peer", 0, groupcache.GetterFunc(
		func(_ context.Context, key string, _ groupcache.Sink) error {
			return fmt.Errorf("%s was loaded here", key)
		}))
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var bytes, threads, gets, warm, keys int
		_, err := fmt.Sscan(input.Text(), &bytes, &threads, &gets, &warm, &keys)
		check(err)
		elapsed, times := run(group, bytes, threads, gets, warm, keys/threads)
		sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
		at := func(part int) int64 { return times[(len(times)*part+99)/100-1].Nanoseconds() }
		fmt.Println(float64(len(times))/elapsed.Seconds(), at(50), at(99))
	}
}

func run(group *groupcache.Group, bytes, threads, gets, warm, keys int) (time.Duration, []time.Duration) {
	times := make([]time.Duration, threads*gets)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	ready.Add(threads)
	done.Add(threads)
	for thread := 0; thread < threads; thread++ {
		names := make([]string, keys)
		for key := range names {
			names[key] = fmt.Sprintf("%d-%011d", bytes, thread*keys+key)
		}
		go func(times []time.Duration) {
			defer done.Done()
			for key := 0; key < warm; key++ {
				get(group, names[key%keys], bytes)
			}
			ready.Done()
			<-start
			for at := range times {
				begin := time.Now()
				get(group, names[at%keys], bytes)
				times[at] = time.Since(begin)
			}
		}(times[thread*gets : (thread+1)*gets])
	}
	ready.Wait()
	begin := time.Now()
	close(start)
	done.Wait()
	return time.Since(begin), times
}

func get(group *groupcache.Group, key string, bytes int) {
	var value groupcache.ByteView
	check(group.Get(context.Background(), key, groupcache.ByteViewSink(&value)))
	if value.Len() != bytes {
		log.Fatalf("%s has %d bytes", key, value.Len())
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
