-- copas_server.lua - the benchmark's server on Copas (on LuaSocket): a coroutine per connection. See server.h.
-- Debian has Copas for Lua 5.1 and 5.2; it runs on 5.4 too, where pcall can yield and coxpcall is not needed.
if _VERSION ~= "Lua 5.1" then
  package.loaded.coxpcall = { pcall = pcall, xpcall = xpcall, running = coroutine.running }
  package.path = package.path .. ";/usr/share/lua/5.2/?.lua"
end
local copas = require "copas"
local socket = require "socket"
local mode, size = ...
local message = ("\0"):rep(tonumber(size))
local answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n"

local modes = {}

local function take(s)
  local data, _, part = copas.receivePartial(s, 16384)
  data = data or part
  return data ~= "" and data or nil
end

function modes.echo(s)
  while true do
    local chunk = take(s)
    if not chunk or not copas.send(s, chunk) then return end
  end
end

function modes.sink(s)
  while take(s) do end
end

function modes.source(s)
  while copas.send(s, message) do end
end

function modes.http(s)
  local head = ""
  while true do
    local chunk = take(s)
    if not chunk then return end
    head = head == "" and chunk or head .. chunk
    local _, last = head:find("\r\n\r\n", 1, true)
    while last do
      head = last == #head and "" or head:sub(last + 1)
      if not copas.send(s, answer) then return end
      _, last = head:find("\r\n\r\n", 1, true)
    end
  end
end

local serve = modes[mode]
local listener = assert(socket.bind("127.0.0.1", 0, 4096))
local _, port = listener:getsockname()
print(port)
io.stdout:flush()
copas.addserver(listener, function(s)
  s:setoption("tcp-nodelay", true)
  serve(s)
end)
copas.loop()
