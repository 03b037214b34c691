---@meta psocket
-- The reference of the Lua module, in the form that lua-language-server reads: name the folder of this file in its setting
-- workspace.library. tests/build/annotations.sh compares it with what the module exports.
--
-- Inside a coroutine what would block yields no values; outside it blocks. A failure is nil (starttls: false), a message and
-- a NAME: one of the names in README's table of errors. Wrong types of arguments and unknown options raise. Times are in
-- seconds. A second coroutine that waits for the same direction of a socket gets "BUSY"; close wakes every waiter.

---@alias psocket.name string the name of an error, "TIMEOUT", "CLOSED" ...

---Options of connect, listen, bind, udpserver, pair and wrap.
---@class psocket.options
---@field timeout? number limit of every whole operation, of a send since bytes last left; accepted sockets inherit it; nil or 0: none
---@field attempt_delay? number between connection attempts, RFC 8305; 0.25
---@field backlog? integer length of a listener's queue; the system's most
---@field broadcast? boolean UDP: may send to broadcast addresses
---@field keepalive? integer seconds of silence after which the system probes the peer; nil or 0: never
---@field local_address? string connect: the numeric address to come from
---@field local_port? integer connect: the port to come from
---@field multicast_group? string UDP: the group to join
---@field multicast_interface? string UDP: name or number of the interface for groups
---@field multicast_noloop? boolean UDP: what is sent to a group does not come back to this machine
---@field multicast_ttl? integer UDP: hops that what is sent to a group may take; 1
---@field recv_limit? integer unread bytes after which reading stops and TCP's flow control takes over; 65536
---@field resolve? fun(host: string): string[]? connect: your resolver: the numeric addresses; may yield
---@field reuse_port? boolean listen: several sockets share the address and port
---@field udp? boolean a UDP socket: one datagram is one chunk
---@field v6only? boolean listen: an IPv6 address takes no IPv4 traffic
---@field yield? boolean false: as setyield(false), from the start; accepted sockets inherit it

---Options of one operation.
---@class psocket.call
---@field timeout? number

---A chain (the own certificate first) and its private key, as PEM or DER, or in files; or a key that cannot be read, which
---signs: ECDSA in DER. sign may yield; nil: the key refuses.
---@class psocket.identity
---@field chain? string
---@field cert_file? string
---@field private_key? string
---@field key_file? string
---@field sign? fun(scheme: string, hash: string, digest: string): string?

---Options of tls and starttls. The same table gives the settings that were made of it before: make a new one for changes.
---@class psocket.tls_options
---@field alpn? string[] application protocols, most wanted first
---@field ca? string trust anchors, PEM or DER; any of ca, ca_file, ca_dir replaces the system's store
---@field ca_dir? string
---@field ca_file? string
---@field client_auth? "none"|"optional"|"required" servers: whether clients show certificates
---@field clock? fun(): number seconds since 1970 that certificates are checked against
---@field decide? fun(peer: table, message: string?, name: psocket.name?): boolean has the last word on the peer's certificate (subject issuer not_before not_after sha256 spki_sha256 certificate): true accepts; message and name say why it would be refused; may yield; not asked about a resumed session
---@field groups? string|string[] key exchanges, most wanted first: "x25519:secp256r1:secp384r1:secp521r1"
---@field identities? psocket.identity[] servers: at least one; clients: what answers a request
---@field insecure_no_name? boolean verify the chain but not for whom it was issued
---@field insecure_no_verify? boolean accept any certificate: encrypts to whoever answers
---@field max_fragment? integer largest record taken from the peer, 64 to 16384
---@field max_version? string "TLSv1.3"
---@field min_version? string "TLSv1.2"
---@field pins? string[] SHA-256 digests of keys: one certificate of the path must have one of them
---@field session_cache? integer sessions remembered; -1: none
---@field sigalgs? string|string[] signature schemes, most wanted first
---@field suites? string|string[] IANA names, most wanted first; as a string with colons between
---@field ticket_keys? string[] servers: 32 bytes each, shared by a fleet; the first makes tickets, all are accepted
---@field tickets? integer servers: tickets per connection; -1: none
---@field timeout? number of each handshake

---A connection or a UDP endpoint. The functions of the module are its methods, too, as in Pluto.
---@class psocket.socket
local socket = {}

---True when the system has all of it; yields while the peer is slow. Several strings leave together, a list as well.
---@param data string|string[]
---@param ... string
---@return true? ok
---@return string? message
---@return psocket.name? name
---@return integer? sent bytes that had gone
function socket:send(data, ...) end

---The oldest chunk: one transport read, one TLS record or one datagram.
---@param options? psocket.call
---@return string? data
---@return string? message
---@return psocket.name? name "CLOSED" at a clean end
function socket:recv(options) end

---The next chunk, which stays; no value if there is none. Never waits.
---@return string? data
function socket:peek() end

---Puts a chunk in front of all others.
---@param data string
---@return true? ok
---@return string? message
---@return psocket.name? name
function socket:unrecv(data) end

---Exactly n bytes, across chunks. Nothing is taken unless all is there.
---@param n integer
---@param options? psocket.call
---@return string? data
---@return string? message
---@return psocket.name? name
function socket:read(n, options) end

---All up to and including the delimiter, of at most max bytes (by default recv_limit; "LIMIT": nothing is taken then).
---@param delimiter string
---@param max? integer
---@param options? psocket.call
---@return string? data
---@return string? message
---@return psocket.name? name
function socket:read_until(delimiter, max, options) end

---For `for line in s:lines() do`: what lies between delimiters (by default "\n" or "\r\n"), without them, the last one also
---without an end; an end that is not clean raises. Yields where the language can: not in Lua 5.1.
---@param delimiter? string
---@param options? psocket.call
---@return fun(): string?
function socket:lines(delimiter, options) end

---A client: name is who must be on the certificate. A server: the identities, a list. Or settings made by tls. True and the
---agreed application protocol; false and why, and the socket is closed; nil alone if it is TLS already; nil and "BUSY", and
---the socket as it was, if another coroutine waits for it. Beside settings the only option is timeout.
---@param name_or_identities string|psocket.identity[]|psocket.tls
---@param options? psocket.tls_options|psocket.tls
---@return boolean? ok
---@return string? alpn_or_message
---@return psocket.name? name
function socket:starttls(name_or_identities, options) end

---Ends the sending direction; receiving goes on.
---@param direction "send"
---@return true? ok
---@return string? message
---@return psocket.name? name
function socket:shutdown(direction) end

---Ends the sending direction, then reads and drops what still comes, for at most so many seconds (10; 2 of silence; 8 MB), and
---closes: what was sent arrives even if not all has been read (RFC 9112 9.6). bind does so with its sockets.
---@param seconds? number
---@return true? ok
---@return string? message
---@return psocket.name? name
function socket:finish(seconds) end

---Closes at once; wakes who waits with "CLOSED_HERE". Unread data makes the system send a reset: see finish.
function socket:close() end

---The other end's address without brackets, and its port; on UDP the sender of the last datagram.
---@return string? ip
---@return integer|string port_or_message
---@return psocket.name? name
function socket:getpeer() end

---The own address and port.
---@return string? ip
---@return integer|string port_or_message
---@return psocket.name? name
function socket:getlocal() end

---UDP: sends to this numeric address from now on.
---@param ip string
---@param port integer
---@return true? ok
---@return string? message
---@return psocket.name? name
function socket:setpeer(ip, port) end

---@return "client"|"server"
function socket:getside() end

---@return boolean
function socket:istls() end

---Whether it is open in both directions; notices the peer's end without taking data.
---@return boolean
function socket:isopen() end

---@return boolean
function socket:isudp() end

---Bytes received and not taken.
---@return integer
function socket:pending() end

---The descriptor, for options of the system; nil if there is none.
---@return integer?
function socket:getfd() end

---Of later operations; nil or 0: none.
---@param seconds? number
function socket:settimeout(seconds) end

---Whether calls on it yield in a coroutine (true at first). With false they block there, for coroutines that are not a
---scheduler's: a generator made with coroutine.wrap.
---@param yes boolean
function socket:setyield(yes) end

---Keying material of this connection (RFC 5705), or a channel binding: "tls-exporter", "tls-server-end-point".
---@param label string
---@param length integer
---@param context? string
---@return string? bytes
---@return string? message
---@return psocket.name? name
function socket:export(label, length, context) end

---What TLS agreed on: version suite group sigalg alpn server_name resumed extended_master_secret peer_subject peer_sha256
---peer_spki_sha256 peer_not_before peer_not_after.
---@return table? info
---@return string? message
---@return psocket.name? name
function socket:tlsinfo() end

---The last error, and as far as there are any os_error bearssl_error tls_alert cert_index.
---@return string? message
---@return psocket.name? name
---@return table? details
function socket:geterror() end

---@class psocket.listener
local listener = {}

---The next connection. In a task it waits, too, when descriptors or memory have run out.
---@param options? psocket.call
---@return psocket.socket? socket
---@return string? message
---@return psocket.name? name
function listener:accept(options) end

---Whether accept would not wait.
---@return boolean
function listener:hasconnection() end

---@return string? ip
---@return integer|string port_or_message
---@return psocket.name? name
function listener:getlocal() end

---@return integer?
function listener:getfd() end

---@param seconds? number
function listener:settimeout(seconds) end

function listener:close() end

---TLS settings, for any number of sockets.
---@class psocket.tls
local tls = {}

---A client's sessions, to resume them after a restart. They hold secrets.
---@return string? sessions
---@return string? message
---@return psocket.name? name
function tls:savesessions() end

---@param sessions string
---@return true? ok
---@return string? message
---@return psocket.name? name "INVALID" if damaged, or if these settings verify otherwise
function tls:loadsessions(sessions) end

---Runs coroutines, and sleeps in the poller while all wait.
---@class psocket.scheduler
---@field errorfunc? fun(message: any) called with a task's error and traceback; without it the error leaves run
---@field yieldfunc? fun() called between turns while some task only yields
local scheduler = {}

---@return psocket.scheduler
function scheduler.new() end

---Starts a function or a coroutine as a task, at once.
---@param f function|thread
---@param ... any
---@return thread
function scheduler:add(f, ...) end

---Calls f again and again, letting others run in between, until it returns false.
---@param f fun(): boolean?
---@return thread
function scheduler:addloop(f) end

---Waits for a task to end: answers what it returned, raises what it raised. Outside of tasks it runs the scheduler meanwhile.
---@param co thread
---@return any ...
function scheduler:join(co) end

---Until no task is left.
function scheduler:run() end

---One turn, waiting at most that long (0); whether tasks remain.
---@param seconds? number
---@return boolean
function scheduler:step(seconds) end

---Pauses the calling task.
---@param seconds number
function scheduler:sleep(seconds) end

---@param co thread
---@return boolean
function scheduler:contains(co) end

---@param co thread
---@return boolean
function scheduler:remove(co) end

function scheduler:close() end

---For another event loop: the descriptor that is readable when step has work, and the seconds until it has some without.
---@return integer? fd
---@return number? seconds
function scheduler:getfd() end

---Between tasks: what is pushed comes out of pop in the same order.
---@class psocket.queue
local queue = {}

---@param value any
---@return true? ok
---@return string? message
---@return psocket.name? name
function queue:push(value) end

---The oldest value; yields while there is none.
---@param options? psocket.call
---@return any value
---@return string? message
---@return psocket.name? name
function queue:pop(options) end

---Ends it: pop answers what is left, then nil and "CLOSED_HERE".
function queue:close() end

---@class psocket : psocket.socket
---@field version string
---@field scheduler psocket.scheduler|fun(): psocket.scheduler
local psocket = {}

---Connects to an address, a name or "unix:/path" (port 0).
---@param host string
---@param port integer
---@param options? psocket.options|"udp"
---@return psocket.socket? socket
---@return string? message
---@return psocket.name? name
function psocket.connect(host, port, options) end

---Listens on a port (0: any free one) of all addresses, or on "address:port", "[v6]:port", "unix:/path".
---@param where integer|string
---@param options? psocket.options
---@return psocket.listener? listener
---@return string? message
---@return psocket.name? name
function psocket.listen(where, options) end

---Accepts in a task of the scheduler and calls callback(socket) in a coroutine of its own for each client. The socket is
---finished when the callback returns, closed when it fails. Raises when it cannot listen. Survives a lack of memory or
---descriptors.
---@param sched psocket.scheduler
---@param where integer|string
---@param callback fun(socket: psocket.socket)
---@param options? psocket.options
---@return psocket.listener listener
function psocket.bind(sched, where, callback, options) end

---A UDP socket.
---@param where integer|string
---@param options? psocket.options
---@return psocket.socket? socket
---@return string? message
---@return psocket.name? name
function psocket.udpserver(where, options) end

---Two connected sockets of this process.
---@param options? psocket.options
---@return psocket.socket client
---@return psocket.socket server
function psocket.pair(options) end

---A socket carried by another one, for TLS within TLS; the carrier's object is empty afterwards.
---@param carrier psocket.socket
---@param options? psocket.options
---@return psocket.socket? socket
---@return string? message
---@return psocket.name? name
function psocket.wrap(carrier, options) end

---TLS settings to be shared by many starttls.
---@param options psocket.tls_options
---@return psocket.tls? settings
---@return string? message
---@return psocket.name? name
function psocket.tls(options) end

---@return psocket.queue
function psocket.queue() end

---The monotonic clock.
---@return number seconds
function psocket.now() end

return psocket
