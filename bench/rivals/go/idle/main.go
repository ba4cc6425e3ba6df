// SPDX-License-Identifier: MIT

// Go's side of bench_million.c's parked tasks: so many goroutines (a million), each waiting for a timer; resident bytes each.
//
// usage: idle [TASKS]
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

func resident() float64 {
	statm, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	return float64(pages) * float64(os.Getpagesize())
}

func main() {
	tasks := 1_000_000
	if len(os.Args) > 1 {
		tasks, _ = strconv.Atoi(os.Args[1])
	}
	var started sync.WaitGroup
	started.Add(tasks)
	before, start := resident(), time.Now()
	for i := 0; i < tasks; i++ {
		go func() {
			started.Done()
			time.Sleep(time.Hour)
		}()
	}
	started.Wait()
	runtime.Gosched()
	ns := float64(time.Since(start).Nanoseconds())
	fmt.Printf("bytes_per_task %.1f\nns_per_task %.1f\n", (resident()-before)/float64(tasks), ns/float64(tasks))
}
