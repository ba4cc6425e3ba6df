// SPDX-License-Identifier: MIT
// The Go rival: the standard library alone, so there is no go.sum.
// Build: bench/report --build, or go build -o ../../../build/bench/go/ ./...
module weir-rival-go

go 1.21
