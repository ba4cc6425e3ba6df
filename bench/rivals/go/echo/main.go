// SPDX-License-Identifier: MIT

// An echo server as the net package's documentation writes it: a goroutine for each connection, Read, Write; for
// datagrams one goroutine.
// GOMAXPROCS is the number of workers; Go sets TCP_NODELAY by itself.
package main

import (
	"log"
	"net"
	"os"
	"strings"
)

const bufferBytes = 16 * 1024

func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, bufferBytes)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err = conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func listen(where string) (net.Listener, error) {
	if path, found := strings.CutPrefix(where, "unix:"); found {
		return net.Listen("unix", path)
	}
	return net.Listen("tcp", "127.0.0.1:"+where)
}

// What cannot be sent is lost, as datagrams are.
func echoDatagrams(port string) {
	address, err := net.ResolveUDPAddr("udp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.ListenUDP("udp", address)
	if err != nil {
		log.Fatal(err)
	}
	buffer := make([]byte, bufferBytes)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err == nil {
			conn.WriteToUDPAddrPort(buffer[:n], from)
		}
	}
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: echo PORT|udp:PORT|unix:PATH")
	}
	if port, found := strings.CutPrefix(os.Args[1], "udp:"); found {
		echoDatagrams(port)
	}
	listener, err := listen(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err == nil {
			go echo(conn)
		}
	}
}
