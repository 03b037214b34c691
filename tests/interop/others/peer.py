# peer.py serve BIG VERSION CHAIN KEY [CA]     a server that knows GET (sends the file BIG) and PUT N (says the digest of N bytes)
# peer.py connect BIG VERSION CA PORT FILE [CHAIN KEY]    sends FILE to an echo, checks what comes back, twice: the second time resumed
# VERSION is 1.2, 1.3 or any. The certificates of clients are asked for if CA is given.
import hashlib, socket, ssl, sys, threading

def context(side, version):
    c = ssl.SSLContext(side)
    if version != 'any':
        c.minimum_version = c.maximum_version = {'1.2': ssl.TLSVersion.TLSv1_2, '1.3': ssl.TLSVersion.TLSv1_3}[version]
    return c

def serve_one(s):
    f = s.makefile('rb')
    words = f.readline().split()
    if words and words[0] == b'GET':
        s.sendall(open(big, 'rb').read())
    elif words:
        s.sendall(hashlib.sha256(f.read(int(words[1]))).hexdigest().encode() + b'\n')
    s.unwrap()

def serve(version, chain, key, ca=None):
    c = context(ssl.PROTOCOL_TLS_SERVER, version)
    c.load_cert_chain(chain, key)
    if ca:
        c.load_verify_locations(ca)
        c.verify_mode = ssl.CERT_REQUIRED
    l = socket.create_server(('127.0.0.1', 0))
    print('port', l.getsockname()[1], flush=True)
    while True:
        raw, _ = l.accept()
        def run(raw=raw):
            try:
                serve_one(c.wrap_socket(raw, server_side=True))
            except OSError as e:
                print('error', e, flush=True)
        threading.Thread(target=run, daemon=True).start()

def connect(version, ca, port, file, chain=None, key=None):
    c = context(ssl.PROTOCOL_TLS_CLIENT, version)
    c.load_verify_locations(ca)
    if chain:
        c.load_cert_chain(chain, key)
    session = None
    data = open(file, 'rb').read()
    for i in range(2):
        s = c.wrap_socket(socket.create_connection(('localhost', int(port)), 20), server_hostname='localhost', session=session)
        for at in range(0, len(data), 100000):
            piece = data[at:at + 100000]
            s.sendall(piece)
            got = b''
            while len(got) < len(piece):
                more = s.recv(len(piece) - len(got))
                if not more:
                    sys.exit('the echo ends')
                got += more
            if got != piece:
                sys.exit('the echo is wrong')
        session = s.session
        print(s.version(), s.cipher()[0], 'resumed' if s.session_reused else 'full', flush=True)
        s.close()

mode, args = sys.argv[1], sys.argv[2:]
big = args.pop(0)
(serve if mode == 'serve' else connect)(*args)
