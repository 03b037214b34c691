-- luasocket_server.lua - the benchmark's server on LuaSocket (and LuaSec for TLS): socket.select and nothing else. See server.h.
-- socket.select cannot hold a descriptor above 1023.
local socket = require "socket"
local mode, size, chain_file, key_file = ...
local message = ("\0"):rep(tonumber(size))
local answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n"

local ssl, context
if chain_file then
  ssl = require "ssl"
  context = assert(ssl.newcontext {
    mode = "server", protocol = "tlsv1_2", certificate = chain_file, key = key_file,
    ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20", options = { "cipher_server_preference" },
  })
end

local listener = assert(socket.bind("127.0.0.1", 0, 4096))
listener:settimeout(0)
local _, port = listener:getsockname()
print(port)
io.stdout:flush()

local readers, writers = { listener }, {} -- lists, and where in them a socket is
local at = { [readers] = { [listener] = 1 }, [writers] = {} }
local pending, sent, heads, handshaking = {}, {}, {}, {}

local function add(list, s)
  if not at[list][s] then
    list[#list + 1] = s
    at[list][s] = #list
  end
end

local function remove(list, s)
  local i = at[list][s]
  if i then
    local last = list[#list]
    list[i] = last
    at[list][last] = i
    list[#list] = nil
    at[list][s] = nil
  end
end

local function close(s)
  remove(readers, s)
  remove(writers, s)
  pending[s], sent[s], heads[s], handshaking[s] = nil, nil, nil, nil
  s:close()
end

local function waits(why)
  return why == "timeout" or why == "wantread" or why == "wantwrite"
end

-- Sends data from place i; keeps what is not taken.
local function put(s, data, i)
  local last, why, part = s:send(data, i)
  if last == #data then
    if pending[s] then
      pending[s], sent[s] = nil, nil
      remove(writers, s)
      add(readers, s)
    end
    return true
  end
  if not last and not waits(why) then return close(s) end
  pending[s], sent[s] = data, (last or part or i - 1) + 1
  remove(readers, s)
  add(writers, s)
end

local function respond(s, data)
  if mode == "echo" then
    put(s, data, 1)
  elseif mode == "http" then
    local head = heads[s] and heads[s] .. data or data
    local _, last = head:find("\r\n\r\n", 1, true)
    while last do
      head = last == #head and "" or head:sub(last + 1)
      if not put(s, answer, 1) then return end
      _, last = head:find("\r\n\r\n", 1, true)
    end
    heads[s] = head ~= "" and head or nil
  end
end

local function begin(s)
  if mode == "source" then
    remove(readers, s)
    add(writers, s)
  else
    add(readers, s)
  end
end

local function handshake(s)
  local ok, why = s:dohandshake()
  if ok then
    handshaking[s] = nil
    remove(writers, s)
    begin(s)
  elseif why == "wantwrite" then
    remove(readers, s)
    add(writers, s)
  elseif why == "wantread" then
    remove(writers, s)
    add(readers, s)
  else
    close(s)
  end
end

while true do
  local can_read, can_write = socket.select(readers, writers)
  for i = 1, #can_read do
    local s = can_read[i]
    if s == listener then
      for _ = 1, 16 do
        local c = listener:accept()
        if not c then break end
        c:settimeout(0)
        c:setoption("tcp-nodelay", true)
        if context then
          c = assert(ssl.wrap(c, context))
          c:settimeout(0)
          handshaking[c] = true
          add(readers, c)
        else
          begin(c)
        end
      end
    elseif handshaking[s] then
      handshake(s)
    else
      local data, why, part = s:receive(16384)
      data = data or (part ~= "" and part or nil)
      if data then respond(s, data) end
      if why and not waits(why) and (at[readers][s] or at[writers][s]) then close(s) end
    end
  end
  for i = 1, #can_write do
    local s = can_write[i]
    if handshaking[s] then handshake(s)
    elseif pending[s] then
      if put(s, pending[s], sent[s]) and mode == "source" then begin(s) end
    elseif mode == "source" then
      if put(s, message, 1) then begin(s) end
    end
  end
end
