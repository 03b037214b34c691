-- Ctrl-C: psocket_poller_wait lasts its time whatever signals come, but a Lua program's Ctrl-C still ends run, step and, at its
-- first press, a blocking recv, as it ends a loop of Lua's.
local t = require "check"
local psocket = t.psocket
local check = t.check

local ways = {
  run = "local s = psocket.scheduler() s:add(function() s:sleep(6) end) ready() s:run()",
  ["run with a task that waits for a socket"] =
    "local s = psocket.scheduler() s:add(function() local a = pair() ready() a:recv() end) s:run()",
  step = "local s = psocket.scheduler() s:add(function() s:sleep(6) end) ready() s:step(6)",
  ["a blocking recv"] = "local a = pair() ready() a:recv()",
  ["a blocking recv with a limit"] = "local a = pair() a:settimeout(6) ready() a:recv()",
  ["a blocking accept"] = "local l = psocket.listen('127.0.0.1:0') ready() l:accept()",
  ["a blocking send"] = "local a, x = pair(), ('x'):rep(50000000) ready() a:send(x)",
  ["a blocking read"] = "local a = pair() ready() a:read(10)",
  ["a blocking starttls"] = "local a = pair() ready() a:starttls('localhost')",
}
local head = [[
io.stdout:setvbuf("no")
local psocket = require "psocket"
local function ready() print("ready") end
local hold
local function pair()
  local l = psocket.listen("127.0.0.1:0")
  local _, port = l:getlocal()
  local a = psocket.connect("127.0.0.1", port)
  hold = l:accept()
  return a
end
]]

-- The interpreter's own handler sets a hook; the standalone programs all have one.
for name, source in pairs(ways) do
  t.test(name, function()
    local path = os.tmpname()
    local f = assert(io.open(path, "w"))
    f:write(head, source, "\nprint('ended by itself')\n")
    f:close()
    -- sends one SIGINT once the program is ready, and tells how long it lived after that
    local command = ([[exec 2>&1; %s %s > %s.out & p=$!
      n=0; while ! grep -q ready %s.out 2>/dev/null && [ $n -lt 200 ]; do sleep 0.02; n=$((n+1)); done; sleep 0.2
      s=$(date +%%s%%N); kill -INT $p; (sleep 4; kill -9 $p) >/dev/null 2>&1 & k=$!
      wait $p; kill $k 2>/dev/null; echo after $(( ($(date +%%s%%N) - s) / 1000000 )) ms; cat %s.out; rm -f %s %s.out]]):format(t.interpreter(), path, path, path, path, path, path)
    -- a shell that runs a job in the background has SIGINT ignored in it: undo that
    command = command:gsub("%& p=%$!", "& p=$!", 1)
    local script = os.tmpname()
    f = assert(io.open(script, "w"))
    f:write("set -m\n", command, "\n")
    f:close()
    local p = assert(io.popen("bash " .. script .. " 2>&1; rm -f " .. script))
    local out = p:read("*a")
    p:close()
    local ms = tonumber(out:match("after (%d+) ms"))
    check(ms and ms < 1500, "one SIGINT, then: " .. out)
    check(not out:find("ended by itself", 1, true), out)
  end)
end
t.finish()
