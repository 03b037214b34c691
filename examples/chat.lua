-- chat.lua [port]: a chat room. Whatever one client types, all others see. Port 0 or none: any free one.
--
--     lua chat.lua 7000
--     nc localhost 7000          in as many terminals as you like; the first line is your name
--
-- Every client has two coroutines: one reads its lines, one sends what others said, so that a client which reads slowly
-- holds up nobody. All share one scheduler and one thread.

local psocket = require "psocket"

local sched = psocket.scheduler()
local clients = {} -- name -> { s =, lines = a queue of what is still to be sent }

local function tell_all(line, except)
  for name, client in pairs(clients) do
    if name ~= except then
      if #client.lines < 1000 then client.lines:push(line)
      else client.s:close() end -- it has not read for a long time
    end
  end
end

local function sender(client)
  repeat
    local line = client.lines:pop() -- yields until there is one; nil when the queue has been closed
  until not line or not client.s:send(line)
end

local function serve(s)
  s:send("Your name? ")
  local name = (s:read_until("\n", 100) or ""):match("^%s*(%S+)%s*$")
  if not name then return end
  if clients[name] then
    s:send("There is a " .. name .. " already.\n")
    return
  end
  local client = { s = s, lines = psocket.queue() }
  tell_all("* " .. name .. " is here\n")
  clients[name] = client
  sched:add(sender, client)
  while true do
    local line = s:read_until("\n", 1000)
    if not line then break end -- gone, or a line too long
    tell_all(name .. ": " .. line:gsub("\r", ""), name)
  end
  clients[name] = nil
  client.lines:close()
  tell_all("* " .. name .. " has left\n")
end

sched.errorfunc = function(message) io.stderr:write(tostring(message), "\n") end

local listener = psocket.bind(sched, arg and arg[1] or 0, serve)
print("chatting on port " .. select(2, listener:getlocal()))
io.stdout:flush()
sched:run()
