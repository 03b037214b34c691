-- hello_server.lua [port]: answers every HTTP request with "Hello, world!". Port 0 or none: any free one.
--
--     lua hello_server.lua 8080          then visit http://localhost:8080/
--
-- Each client has a coroutine of its own; the program sleeps while nothing happens. Stop it with Ctrl-C.

local psocket = require "psocket"

local sched = psocket.scheduler()

local function serve(s)
  s:settimeout(30) -- a client that says nothing is not kept for ever
  while true do
    local request = s:read_until("\r\n\r\n", 8192)
    if not request then return end -- closed, or timed out, or no HTTP at all: bind closes the socket
    local content = "Hello, world!"
    local keep = request:find("^%u+ %S+ HTTP/1%.1\r\n") and not request:lower():find("\r\nconnection: *close")
    s:send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: " .. (keep and "Keep-Alive" or "Close") ..
           "\r\nContent-Length: " .. #content .. "\r\n\r\n" .. content)
    if not keep then return end
  end
end

-- A client that breaks something must not stop the server.
sched.errorfunc = function(message) io.stderr:write(tostring(message), "\n") end

local listener = psocket.bind(sched, arg and arg[1] or 0, serve)
print("listening on http://localhost:" .. select(2, listener:getlocal()) .. "/")
io.stdout:flush()
sched:run()
