// SPDX-License-Identifier: MIT

// Go's side of bench_runtime.c: the same loops with the same counts in Go's own idiom (goroutines, WaitGroup,
// channels, NewTimer and Stop), printed as the same CSV. GOMAXPROCS is the number of workers.
//
// usage: micro [ROUNDS]
package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"time"
)

type row struct {
	name string
	body func() int // does it many times and returns how many
}

func yieldAmong(tasks, times int) int {
	var group sync.WaitGroup
	group.Add(tasks)
	for i := 0; i < tasks; i++ {
		go func() {
			for j := 0; j < times; j++ {
				runtime.Gosched()
			}
			group.Done()
		}()
	}
	group.Wait()
	return tasks * times
}

func yieldAlone() int {
	const yields = 500_000
	for i := 0; i < yields; i++ {
		runtime.Gosched()
	}
	return yields
}

func spawnJoinMany() int {
	const spawns = 10_000
	var group sync.WaitGroup
	group.Add(spawns)
	for i := 0; i < spawns; i++ {
		go group.Done()
	}
	group.Wait()
	return spawns
}

func spawnJoinOne() int {
	const joins = 50_000
	done := make(chan struct{})
	for i := 0; i < joins; i++ {
		go func() { done <- struct{}{} }()
		<-done
	}
	return joins
}

func chainedSpawn() int {
	const spawns = 10_000
	done := make(chan struct{})
	var next func(left int)
	next = func(left int) {
		if left == 0 {
			close(done)
			return
		}
		go next(left - 1)
	}
	go next(spawns - 1)
	<-done
	return spawns
}

func timerCancelled() int {
	const timers = 100_000
	for i := 0; i < timers; i++ {
		time.NewTimer(10 * time.Second).Stop()
	}
	return timers
}

func pingPong() int {
	const trips = 50_000
	to, back := make(chan uint64, 1), make(chan uint64, 1)
	go func() {
		for item := range to {
			back <- item
		}
	}()
	for i := uint64(0); i < trips; i++ {
		to <- i
		<-back
	}
	close(to)
	return trips
}

func stream(senders, capacity int) int {
	const items = 100_000
	to := make(chan uint64, capacity)
	for i := 0; i < senders; i++ {
		go func() {
			for j := uint64(0); j < uint64(items/senders); j++ {
				to <- j
			}
		}()
	}
	for i := 0; i < items; i++ {
		<-to
	}
	return items
}

var rows = []row{
	{"yield_200", func() int { return yieldAmong(200, 1000) }},
	{"yield_1000", func() int { return yieldAmong(1000, 200) }},
	{"yield_alone", yieldAlone},
	{"spawn_join_10000", spawnJoinMany},
	{"spawn_join_1", spawnJoinOne},
	{"chained_spawn", chainedSpawn},
	{"timer_armed_cancelled", timerCancelled},
	{"chan_pingpong", pingPong},
	{"chan_spsc_1", func() int { return stream(1, 1) }},
	{"chan_spsc_128", func() int { return stream(1, 128) }},
	{"chan_mpsc_1", func() int { return stream(5, 1) }},
	{"chan_mpsc_128", func() int { return stream(5, 128) }},
}

func measure(r row) float64 {
	start := time.Now()
	operations := r.body()
	return float64(time.Since(start).Nanoseconds()) / float64(operations)
}

func main() {
	rounds := 7
	if len(os.Args) > 1 {
		rounds, _ = strconv.Atoi(os.Args[1])
	}
	for _, r := range rows {
		measure(r)
		times := make([]float64, rounds)
		for i := range times {
			times[i] = measure(r)
		}
		sort.Float64s(times)
		middle := (times[(rounds-1)/2] + times[rounds/2]) / 2
		fmt.Printf("%s,go,%d,%.2f,%.2f,%.2f\n", r.name, rounds, times[0], middle, times[rounds-1])
	}
}
