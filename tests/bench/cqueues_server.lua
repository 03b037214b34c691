-- cqueues_server.lua - the benchmark's server on cqueues (and luaossl for TLS): a coroutine per connection. See server.h.
local cqueues = require "cqueues"
local socket = require "cqueues.socket"
local mode, size, chain_file, key_file = ...
local message = ("\0"):rep(tonumber(size))
local answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n"

local context
if chain_file then
  local ssl = require "openssl.ssl.context"
  local x509, chain, pkey = require "openssl.x509", require "openssl.x509.chain", require "openssl.pkey"
  local function slurp(path) local f = assert(io.open(path, "rb")) local text = f:read "*a" f:close() return text end
  context = ssl.new("TLSv1_2", true)
  context:setOptions(ssl.OP_CIPHER_SERVER_PREFERENCE)
  context:setCipherList "ECDHE+AESGCM:ECDHE+CHACHA20"
  local pems = {}
  for pem in slurp(chain_file):gmatch "%-%-%-%-%-BEGIN CERTIFICATE.-END CERTIFICATE%-%-%-%-%-" do pems[#pems + 1] = pem end
  context:setCertificate(x509.new(pems[1]))
  local rest = chain.new()
  for i = 2, #pems do rest:add(x509.new(pems[i])) end
  context:setCertificateChain(rest)
  context:setPrivateKey(pkey.new(slurp(key_file)))
end

local modes = {}

function modes.echo(s)
  while true do
    local chunk = s:read(-65536)
    if not chunk or not s:write(chunk) then return end
  end
end

function modes.sink(s)
  while s:read(-65536) do end
end

function modes.source(s)
  while s:write(message) do end
end

function modes.http(s)
  local head = ""
  while true do
    local chunk = s:read(-16384)
    if not chunk then return end
    head = head == "" and chunk or head .. chunk
    local _, last = head:find("\r\n\r\n", 1, true)
    while last do
      head = last == #head and "" or head:sub(last + 1)
      if not s:write(answer) then return end
      _, last = head:find("\r\n\r\n", 1, true)
    end
  end
end

local serve = modes[mode]
local loop = cqueues.new()
local server = assert(socket.listen { host = "127.0.0.1", port = 0, nodelay = true })
assert(server:listen())
local _, _, port = server:localname()
print(port)
io.stdout:flush()

loop:wrap(function()
  while true do
    local s = server:accept { nodelay = true }
    if s then
      loop:wrap(function()
        s:onerror(function(_, _, why) return why end)
        s:setmode("bn", "bn")
        if not context or s:starttls(context) then serve(s) end
        s:close()
      end)
    end
  end
end)
while true do loop:step() end
