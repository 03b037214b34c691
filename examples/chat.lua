-- chat.lua [port]: a chat room. Whatever one client types, all others see. Port 0 or none: any free one.
--
--     lua chat.lua 7000
--     nc localhost 7000          in as many terminals as you like; the first line is your name
--
-- Every client has two coroutines: one reads its lines, one sends what others said, so that a client which reads slowly
-- holds up nobody. All share one scheduler and one thread.

local psocket = require "psocket"

local sched = psocket.scheduler()
local clients = {} -- name -> { s =, queue = lines still to be sent, idle = the sender, if it has nothing to do }

local function tell(client, line)
  if #client.queue >= 1000 then
    client.s:close() -- it has not read for a long time
  else
    client.queue[#client.queue + 1] = line
    if client.idle then sched:add(client.idle) end -- goes on where it yielded
  end
end

local function tell_all(line, except)
  for name, client in pairs(clients) do
    if name ~= except then tell(client, line) end
  end
end

-- Sends what is in the queue, then leaves the scheduler until there is more.
local function sender(client)
  local me = coroutine.running()
  while client.s:isopen() do
    local lines = table.concat(client.queue)
    client.queue = {}
    if lines == "" then
      client.idle = me
      sched:remove(me)
      coroutine.yield()
      client.idle = nil
    elseif not client.s:send(lines) then
      return
    end
  end
end

local function serve(s)
  s:send("Your name? ")
  local name = (s:read_until("\n", 100) or ""):match("^%s*(%S+)%s*$")
  if not name then return end
  if clients[name] then
    s:send("There is a " .. name .. " already.\n")
    return
  end
  local client = { s = s, queue = {} }
  tell_all("* " .. name .. " is here\n")
  clients[name] = client
  sched:add(sender, client)
  while true do
    local line = s:read_until("\n", 1000)
    if not line then break end -- gone, or a line too long
    tell_all(name .. ": " .. line:gsub("\r", ""), name)
  end
  clients[name] = nil
  tell_all("* " .. name .. " has left\n")
end

sched.errorfunc = function(message) io.stderr:write(tostring(message), "\n") end

local listener, message = psocket.bind(sched, arg and arg[1] or 0, serve)
if not listener then
  io.stderr:write(message, "\n")
  os.exit(1)
end
print("chatting on port " .. select(2, listener:getlocal()))
io.stdout:flush()
sched:run()
