-- Other instances of the kinds of defects that b_defects.lua holds: what dies with its waiter, waits that could not yield,
-- schedulers of somebody else's.
local t = require "check"
local psocket, finish = t.psocket, t.complete
local check, equal, fails = t.check, t.equal, t.fails
local yield = coroutine.yield

-- What only a waiting task knows is collected with its coroutine, which its scheduler does not know to have ended.
local waits = {
  queue = function(options) psocket.queue():pop(options) end,
  socket = function(options)
    local a, b = psocket.pair()
    b:recv(options)
    return a
  end,
  datagrams = function(options) psocket.udpserver("127.0.0.1:0"):recv(options) end,
  listener = function(options) psocket.listen("127.0.0.1:0"):accept(options) end,
  handshake = function(options)
    local a, b = psocket.pair(options)
    a:starttls("localhost")
    return b
  end,
}
for name, wait in pairs(waits) do
  for _, how in ipairs { "resumed to its end", "resumed to an error", "closed", "removed" } do
    if how ~= "closed" or coroutine.close then
      t.test("a " .. name .. " that goes with the task that waits for it: " .. how, function()
        for _ = 1, 5 do
          local sched, ran = psocket.scheduler(), 0
          local co = coroutine.create(function()
            wait { timeout = 0.002 }
            if how == "resumed to an error" then error("on purpose") end
          end)
          pcall(sched.add, sched, co) -- its limit may be over at once
          if how == "closed" then coroutine.close(co) -- luacheck: ignore
          elseif how == "removed" then sched:remove(co)
          else
            local stop = psocket.now() + 2
            repeat coroutine.resume(co) until coroutine.status(co) == "dead" or psocket.now() > stop
          end
          co = how == "removed" and co or nil
          t.collect()
          local others = {}
          for i = 1, 20 do others[i] = { psocket.queue(), psocket.pair() } end
          sched:add(function() sched:sleep(0.001) ran = ran + 1 end)
          finish(sched)
          equal(ran, 1)
          check(#others == 20)
        end
      end)
    end
  end
end

for _, what in ipairs { "join", "pop" } do
  t.test(what .. " where nothing can yield, twice, then where it can", function()
    local sched, queue, got = psocket.scheduler(), psocket.queue(), nil
    local other = sched:add(function() sched:sleep(0.02) return "ended" end)
    local function wait()
      if what == "join" then return sched:join(other) end
      return queue:pop()
    end
    sched:add(function()
      for _ = 1, 3 do equal(pcall(string.gsub, "x", "x", wait), false) end
      got = wait()
    end)
    sched:add(function() sched:sleep(0.03) queue:push("pushed") end)
    finish(sched)
    equal(got, what == "join" and "ended" or "pushed")
  end)
end

t.test("pop outside of tasks, with a limit", function()
  fails("TIMEOUT", psocket.queue():pop { timeout = 0.01 })
end)

-- Schedulers whose add starts the task at once and lets its error out.
local function at_once()
  local own = { tasks = {} }
  function own:add(f, ...)
    local co = coroutine.create(f)
    local ok, message = coroutine.resume(co, ...)
    if not ok then error(message, 0) end
    if coroutine.status(co) ~= "dead" then self.tasks[#self.tasks + 1] = co end
  end
  function own:step()
    for i = #self.tasks, 1, -1 do
      local co = self.tasks[i]
      coroutine.resume(co)
      if coroutine.status(co) == "dead" then table.remove(self.tasks, i) end
    end
  end
  return own
end
local function derived()
  local own = psocket.scheduler()
  function own.add(self, f, ...) return psocket.scheduler.add(self, f, ...) end
  return own
end
for name, make in pairs { ["of somebody else's"] = at_once, ["with an add of its own"] = derived, ["of psocket's"] = psocket.scheduler } do
  for _, when in ipairs { "at once", "later" } do
    t.test("a scheduler " .. name .. ": a callback of bind that fails " .. when .. " is called once", function()
      local sched, calls, first = make(), 0, nil
      local l = psocket.bind(sched, "127.0.0.1:0", function(s)
        calls = calls + 1
        first = first or s
        if s ~= first then s:send("hi") return end
        if when == "later" then yield() end
        error("on purpose")
      end)
      local _, port = l:getlocal()
      local function serve(until_)
        local stop = psocket.now() + 2
        repeat pcall(sched.step, sched, 0.01) until until_() or psocket.now() > stop
      end
      local bad = psocket.connect("127.0.0.1", port)
      serve(function() return calls > 0 end)
      local good = psocket.connect("127.0.0.1", port)
      serve(function() return good:peek() end)
      equal(good:peek(), "hi")
      equal(calls, 2)
      l:close()
      bad:close()
    end)
  end
end

t.test("bind refuses to stop its scheduler", function()
  t.raises("yield", psocket.bind, psocket.scheduler(), "127.0.0.1:0", print, { yield = false })
  psocket.bind(psocket.scheduler(), "127.0.0.1:0", print, { yield = true }):close()
end)

t.test("a pause with a fraction of a millisecond does not spin", function()
  local sched = psocket.scheduler()
  sched:add(function() for _ = 1, 100 do sched:sleep(0.0041) end end)
  local cpu, turns = os.clock(), 0
  while sched:step(1) do turns = turns + 1 end
  check(turns < 300, turns .. " turns for 100 pauses")
  check(os.clock() - cpu < 0.2, "CPU " .. os.clock() - cpu)
end)

t.finish()
