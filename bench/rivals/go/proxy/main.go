// SPDX-License-Identifier: MIT

// A TCP proxy as it is written in Go: a goroutine for each direction, io.Copy, CloseWrite at its end. Between TCP
// connections io.Copy splices, through a pipe.
// GOMAXPROCS is the number of workers; Go sets TCP_NODELAY by itself.
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func pass(to, from *net.TCPConn, done chan<- struct{}) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
	}
	to.CloseWrite()
	done <- struct{}{}
}

func proxy(client *net.TCPConn, port string) {
	defer client.Close()
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	done := make(chan struct{}, 1)
	go pass(client, server, done)
	pass(server, client, make(chan struct{}, 1))
	<-done
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: proxy PORT SERVER-PORT")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err == nil {
			go proxy(conn.(*net.TCPConn), os.Args[2])
		}
	}
}
