// SPDX-License-Identifier: MIT

// Go's side of `bench_million skynet`: a tree of 1,111,111 goroutines, ten children each; the leaves are numbers,
// to be summed. Prints the rounds and the peak of the process's memory. GOMAXPROCS is the number of workers.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

func grow(result chan<- uint64, first, leaves uint64) {
	if leaves == 1 {
		result <- first
		return
	}
	children := make(chan uint64, 10)
	each := leaves / 10
	for i := uint64(0); i < 10; i++ {
		go grow(children, first+i*each, each)
	}
	sum := uint64(0)
	for i := 0; i < 10; i++ {
		sum += <-children
	}
	result <- sum
}

func peakMiB() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmHWM:") {
			kib := 0.0
			fmt.Sscanf(line, "VmHWM: %f", &kib)
			return kib / 1024
		}
	}
	return 0
}

func main() {
	for round := 0; round < 5; round++ {
		result := make(chan uint64, 1)
		start := time.Now()
		go grow(result, 0, 1000000)
		sum := <-result
		each := float64(time.Since(start).Nanoseconds()) / 1111111
		if sum != 499999500000 {
			panic("wrong sum")
		}
		fmt.Printf("  skynet %9.1f ns each, peak %6.1f MiB\n", each, peakMiB())
	}
}
