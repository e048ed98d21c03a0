"""A photo that is sent in two halves: after the first it says so and waits for a line. Then prints the status.
Arguments: the order's address on this machine's port 8080, a file with the token, the photo."""

import pathlib
import socket
import sys

target, token, photo = sys.argv[1], *(pathlib.Path(it).read_bytes() for it in sys.argv[2:])
part = b'--cut\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
body = part % (b"proceso", b"", b"antes") + part % (b"imagen", b'; filename="foto.jpg"', photo) + b"--cut--\r\n"
head = (
    b"POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n"
    b"Content-Type: multipart/form-data; boundary=cut\r\n\r\n"
) % (target.encode(), token.strip(), len(body))
half = len(body) // 2
with socket.create_connection(("127.0.0.1", 8080), timeout=60) as connection:
    connection.sendall(head + body[:half])
    print("half", flush=True)
    sys.stdin.readline()
    connection.sendall(body[half:])
    print(connection.makefile("rb").readline().decode().split()[1], flush=True)
