-- psocket_server.lua - the benchmark's server on psocket in Lua: its scheduler, a coroutine per connection. See server.h.
local socket = require "psocket"
local mode, size, chain_file, key_file = ...
local message = ("\0"):rep(tonumber(size))
local answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n"

local certificates
if chain_file then
  local function slurp(path) local f = assert(io.open(path, "rb")) local text = f:read "*a" f:close() return text end
  certificates = { { chain = slurp(chain_file), private_key = slurp(key_file) } }
end

local modes = {}

function modes.echo(s)
  while true do
    local chunk = s:recv()
    if not chunk or not s:send(chunk) then return end
  end
end

function modes.sink(s)
  while s:recv() do end
end

function modes.source(s)
  while s:send(message) do end
end

function modes.http(s)
  while s:read_until("\r\n\r\n", 16384) and s:send(answer) do end
end

local serve = modes[mode]
local sched = socket.scheduler()
local listener = assert(socket.bind(sched, "127.0.0.1:0", function(s)
  if certificates and not s:starttls(certificates) then return end
  return serve(s)
end, { backlog = 4096 }))
local _, port = listener:getlocal()
print(port)
io.stdout:flush()
sched:run()
