-- check.lua: the harness of psocket's Lua tests, for every Lua from 5.1 on.
--
--     local t = require "check"
--     t.test("name", function() t.equal(1 + 1, 2) end)      -- runs it now
--     t.modes("name", function(go, nap) ... end)            -- runs it twice: go(f, g, ...) runs the functions as tasks of
--                                                           -- psocket's scheduler, then as coroutines of a home-made one
--     t.finish()                                            -- prints the sum and exits
--
-- check, equal and fails record a failure and go on. A test that takes longer than 20 s stops with an error at the next
-- resume; the runner's own time limit covers the rest.

local psocket = require "psocket"
local t = { psocket = psocket, limit = 20 }
local passed, failed, current, started = 0, 0, nil, 0
local unpack = table.unpack or unpack

function t.version()
  return rawget(_G, "jit") and "jit" or _VERSION:match("%d%.%d")
end

-- Can a coroutine yield through pcall?
t.pcall_yields = coroutine.wrap(function() return (pcall(coroutine.yield, true)) end)() == true

local function record(level, message)
  if #current >= 10 then return end
  local info = debug.getinfo(level + 1, "Sl")
  current[#current + 1] = ("%s:%d: %s"):format(info and info.short_src or "?", info and info.currentline or 0, message)
end

local function show(v)
  if type(v) ~= "string" then return tostring(v) end
  return #v > 100 and ("%q... (%d bytes)"):format(v:sub(1, 100), #v) or ("%q"):format(v)
end

function t.check(cond, message)
  if not cond then record(2, message or "the check does not hold") end
  return cond
end

function t.equal(got, want, what)
  if got ~= want then record(2, (what and what .. ": " or "") .. "got " .. show(got) .. ", want " .. show(want)) end
  return got == want
end

-- The results of a call that is to fail: fails("TIMEOUT", s:recv()). first is what it returns first (nil).
function t.fails(name, first, message, got)
  if first ~= nil and first ~= false then record(2, "no failure but " .. show(first))
  elseif got ~= name then record(2, "got " .. show(got) .. " (" .. show(message) .. "), want " .. name)
  elseif type(message) ~= "string" or message == "" then record(2, name .. " comes without a message") end
end

-- The call is to raise an error that contains text (plain).
function t.raises(text, f, ...)
  local ok, message = pcall(f, ...)
  if ok then record(2, "no error was raised")
  elseif not tostring(message):find(text, 1, true) then record(2, "the error is " .. show(tostring(message)) .. ", want " .. show(text)) end
end

function t.test(name, f)
  current, started = {}, psocket.now()
  local ok, message = xpcall(f, function(e) return debug.traceback(tostring(e), 2) end)
  if not ok then current[#current + 1] = message end
  collectgarbage()
  if #current == 0 then
    passed = passed + 1
    print("ok " .. name)
  else
    failed = failed + 1
    print("FAIL " .. name .. ": " .. table.concat(current, "\n    "))
  end
end

function t.skip(name, why)
  print("skip " .. name .. ": " .. why)
end

local function overdue()
  return psocket.now() - started > t.limit
end

-- Runs a scheduler until it has no task left.
function t.complete(sched, seconds)
  local stop = psocket.now() + (seconds or 10)
  while sched:step(0.1) do
    if psocket.now() > stop then error("not finished in time: " .. tostring(sched)) end
  end
end

-- Runs functions as tasks of a scheduler of psocket's.
function t.scheduled(...)
  local sched = psocket.scheduler()
  for i = 1, select("#", ...) do sched:add((select(i, ...))) end
  t.complete(sched, t.limit)
end

-- The plainest scheduler that a user may write: resumes all, again and again.
function t.homemade(...)
  local all = {}
  for i = 1, select("#", ...) do all[i] = coroutine.create((select(i, ...))) end
  while #all > 0 do
    for i = #all, 1, -1 do
      local co = all[i]
      local results = { coroutine.resume(co) }
      if not results[1] then error(debug.traceback(co, tostring(results[2]))) end
      if coroutine.status(co) == "dead" then table.remove(all, i)
      elseif #results > 1 then error("a coroutine yielded values") end
    end
    if overdue() then error("not finished in time") end
  end
end

local clock = psocket.scheduler()
local function nap(seconds) clock:sleep(seconds) end
t.nap = nap

function t.modes(name, f)
  t.test(name .. " (scheduler)", function() f(t.scheduled, nap) end)
  t.test(name .. " (home-made)", function() f(t.homemade, nap) end)
end

-- Collects all garbage. LuaJIT's compiled code keeps what it has seen.
function t.collect()
  if jit then jit.flush() end
  for _ = 1, 4 do collectgarbage() end
end

-- Two ends of a TCP connection, made without a coroutine. options are the listener's.
function t.tcp(options)
  local l = assert(psocket.listen("127.0.0.1:0", options))
  local _, port = l:getlocal()
  local client = assert(psocket.connect("127.0.0.1", port))
  local server = assert(l:accept())
  l:close()
  return client, server
end

-- The contents of a file in the folder of certificates, or nil.
function t.pem(name)
  local f = io.open((os.getenv("PSOCKET_CERTS") or "build/certs") .. "/" .. name, "rb")
  if not f then return nil end
  local text = f:read("*a")
  f:close()
  return text
end

-- The command that runs this interpreter.
function t.interpreter()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return os.getenv("LUA") or arg[i]
end

-- Runs Lua source in a second process of the same interpreter, after the shell command `before` if there is one; returns
-- what io.popen does.
function t.process(source, before)
  local lua = t.interpreter()
  local path = os.tmpname()
  local f = assert(io.open(path, "w"))
  f:write(source)
  f:close()
  return assert(io.popen((before or ":") .. "; " .. lua .. " " .. path .. "; rm -f " .. path, "r"))
end

-- Calls f where it cannot yield: in Lua 5.1 nothing yields through pcall, in none through string.gsub.
function t.without_yield(f, ...)
  local all, n = { ... }, select("#", ...)
  pcall(string.gsub, "x", "x", function() f(t.unpack(all, 1, n)) end)
  if not t.pcall_yields then pcall(f, ...) end
end

-- Has f called when the collector runs next.
function t.finalizer(f)
  if newproxy then getmetatable(newproxy(true)).__gc = f -- luacheck: ignore
  else setmetatable({}, { __gc = f }) end
end

-- Makes the collector run as often as it may (up to Lua 5.3: whenever); returns a function that undoes that.
function t.eager()
  if _VERSION == "Lua 5.5" then
    local old = collectgarbage("param", "pause", 0)
    return function() collectgarbage("param", "pause", old) end
  end
  local compiles = jit and jit.status()
  if jit then -- compiled code that must leave for a finalizer each time it is entered goes round in circles
    jit.off()
    jit.flush()
  end
  local pause, mul = collectgarbage("setpause", 0), collectgarbage("setstepmul", 1000000)
  return function()
    collectgarbage("setpause", pause)
    collectgarbage("setstepmul", mul)
    if compiles then jit.on() end
  end
end

-- PSOCKET_GC=eager runs all with a collector that runs as often as it may, generational in that mode.
local gc = os.getenv("PSOCKET_GC")
if gc == "eager" then t.eager() end
if gc == "generational" and _VERSION >= "Lua 5.4" then collectgarbage("generational") end

function t.finish()
  print(("%d passed, %d failed"):format(passed, failed))
  os.exit(failed == 0 and 0 or 1, true) -- closing the state, where that is possible: everything is given back
end

t.unpack = unpack
return t
