-- The end of a program: finalizers that run then may use sockets, and make some.
local t = require "check"

local finalizer = [[
local P = require "psocket"
local kept
local function fin(f)
  if newproxy then
    local p = newproxy(true)
    getmetatable(p).__gc = f
    return p
  end
  return setmetatable({}, { __gc = f })
end
]]
local ends = {
  ["falls off its end"] = "",
  ["calls os.exit"] = "os.exit(0, true)",
  ["calls os.exit in a task"] = "local s = P.scheduler() s:add(function() P.pair() os.exit(0, true) end)",
  ["calls os.exit in bind's callback"] = [[
    local s = P.scheduler()
    local l = P.bind(s, "127.0.0.1:0", function(c) c:send "x" os.exit(0, true) end)
    s:add(function() P.connect("127.0.0.1", select(2, l:getlocal())):recv() end)
    s:run()]],
}
-- Lua 5.3 itself hangs when a finalizer collects at the end and 100 others wait to be called.
local finalizers = {
  ["makes sockets"] = "kept = fin(function() local a, b = P.pair() a:send 'bye' end)",
  ["starts a task"] = "kept = fin(function() local s = P.scheduler() s:add(function() P.pair():recv { timeout = 1 } end) s:step(0) end)",
  ["makes another finalizer"] = "kept = fin(function() late = fin(function() P.pair() end) P.queue() if _VERSION ~= 'Lua 5.3' then collectgarbage() end end)",
  ["closes what others wait for"] = [[
    local a, b = P.pair()
    local s = P.scheduler()
    s:add(function() b:recv() end)
    kept = fin(function() b:close() s:step(0) a:close() end)]],
}
-- Lua 5.4 gives nothing back of what a finalizer makes at the end.
local quiet = "exec 2>&1; export ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0"
for how, text in pairs(ends) do
  for what, made in pairs(finalizers) do
    t.test("a program " .. how .. ", and a finalizer " .. what, function()
      local f = t.process(finalizer .. made .. "\n" .. text .. "\n", quiet)
      local said = f:read("*a")
      f:close()
      t.equal(said, "")
    end)
  end
end

t.finish()
