-- luv_server.lua - the benchmark's server on luv (libuv): callbacks. See server.h.
local uv = require "luv"
local mode, size = ...
local message = ("\0"):rep(tonumber(size))
local answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n"

local function close(c)
  if not c:is_closing() then c:close() end
end

local modes = {}

function modes.echo(c)
  c:read_start(function(err, chunk)
    if chunk then c:write(chunk) else close(c) end
  end)
end

function modes.sink(c)
  c:read_start(function(err, chunk)
    if not chunk then close(c) end
  end)
end

function modes.source(c)
  local function more(err)
    if err then return close(c) end
    c:write(message, more)
  end
  more()
end

function modes.http(c)
  local head = ""
  c:read_start(function(err, chunk)
    if not chunk then return close(c) end
    head = head == "" and chunk or head .. chunk
    while true do
      local _, last = head:find("\r\n\r\n", 1, true)
      if not last then return end
      head = last == #head and "" or head:sub(last + 1)
      c:write(answer)
      if head == "" then return end
    end
  end)
end

local serve = modes[mode]
local server = uv.new_tcp()
assert(server:bind("127.0.0.1", 0))
assert(server:listen(4096, function(err)
  assert(not err, err)
  local c = uv.new_tcp()
  server:accept(c)
  c:nodelay(true)
  serve(c)
end))
print(server:getsockname().port)
io.stdout:flush()
uv.run()
