-- joins.lua: whoever waits for the end of a task is woken by it, whichever scheduler each of them has.
local t = require "check"
local psocket = t.psocket

t.test("a task of another scheduler is waited for without spinning", function()
  local mine, other = psocket.scheduler(), psocket.scheduler()
  local turns, got = 0, nil
  local co = other:add(function() other:sleep(0.05) return "done" end)
  mine:add(function() got = other:join(co) end)
  mine:add(function() while other:contains(co) do turns = turns + 1 other:step(0.02) mine:sleep(0.005) end end)
  mine:run()
  t.equal(got, "done")
  t.check(turns < 60, turns .. " turns")
end)

t.test("all that wait for one task are woken by its end", function()
  local s = psocket.scheduler()
  local n = 0
  local co = s:add(function() s:sleep(0.01) return 7 end)
  for _ = 1, 100 do s:add(function() if s:join(co) == 7 then n = n + 1 end end) end
  s:run()
  t.equal(n, 100)
end)

t.test("they are woken when it is removed, and when its scheduler is closed", function()
  local mine, other = psocket.scheduler(), psocket.scheduler()
  local ended, closed = nil, nil
  local co = other:add(function() other:sleep(1) end)
  local last = other:add(function() other:sleep(1) end)
  mine:add(function() ended = select(2, pcall(mine.join, other, co)) or "removed" end)
  mine:add(function() closed = select(2, pcall(mine.join, other, last)) or "closed" end)
  if not t.pcall_yields then return end
  mine:step(0)
  other:remove(co)
  other:close()
  mine:run()
  t.check(ended and closed, "somebody still waits")
end)

t.test("one that is removed while it waits leaves nothing behind", function()
  local s = psocket.scheduler()
  local co = s:add(function() s:sleep(0.02) end)
  local joiner = s:add(function() s:join(co) error("it was removed") end)
  t.equal(s:remove(joiner), true)
  joiner = nil
  collectgarbage()
  s:run()
  t.equal(tostring(s), "psocket scheduler: (0 tasks)")
end)

t.test("a result that refers to its coroutine does not keep it", function()
  local sched, alive = psocket.scheduler(), setmetatable({}, { __mode = "k" })
  for _ = 1, 100 do
    local co = sched:add(function() coroutine.yield() return coroutine.running() end)
    alive[co] = true
    local joined = 0
    sched:add(function() t.equal(sched:join(co), co) joined = joined + 1 end)
    sched:run()
    t.equal(sched:join(co), co)
    t.equal(joined, 1)
  end
  t.collect()
  local left = 0
  for _ in pairs(alive) do left = left + 1 end
  t.check(left < 10, left)
end)

t.test("outside of tasks join raises what the task has raised", function()
  for _, problem in ipairs { "on purpose", { "a table" } } do
    local sched = psocket.scheduler()
    local co = sched:add(function() sched:sleep(0.01) error(problem, 0) end)
    local ok, why = pcall(sched.join, sched, co)
    t.equal(ok, false)
    t.equal(why, problem)
    co = sched:add(function() sched:sleep(0.05) return "done" end)
    sched:add(function() sched:sleep(0.01) error("another") end)
    ok, why = pcall(sched.join, sched, co)
    t.check(not ok and why:find("another", 1, true), why)
    t.equal(sched:join(co), "done")
  end
end)

t.test("tasks return although a sandbox has taken the libraries away", function()
  local taken = {}
  for _, name in ipairs { "debug", "rawget", "rawset", "coroutine", "select", "error", "pcall", "next", "tonumber" } do
    taken[name], _G[name] = _G[name], nil
  end
  local sched, ok, got, why = psocket.scheduler(), nil, nil, nil
  local co = sched:add(function() return "done" end)
  local bad = sched:add(function() sched:sleep(0.001) local _ = nil + 1 end)
  sched.errorfunc = function(e) why = e end
  local run = sched.run
  ok = taken.pcall(function() run(sched) got = sched:join(co) end)
  for name, value in pairs(taken) do _G[name] = value end
  t.equal(ok, true)
  t.equal(got, "done")
  t.check(why and not sched:contains(bad), why)
end)

t.finish()
