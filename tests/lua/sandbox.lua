-- A program may take Lua's libraries away once psocket is loaded.
local t = require "check"

local program = [[
local P = require "psocket"
local call, say, text = pcall, print, tostring
for _, name in ipairs { %s } do _G[name] = nil end
local s = P.scheduler()
local told
s.errorfunc = function(message) told = message end
local returns = s:add(function() s:sleep(0.001) return 1, 2 end)
local fails = s:add(function() s:sleep(0.001) local x = nil + 1 end)
local a, b = P.pair()
s:add(function() a:send "a line\n" a:shutdown "send" b:read_until "\n" return b:recv() end)
local l = P.bind(s, "127.0.0.1:0", function(c) c:send(c:recv()) return c end)
s:add(function()
  local _, port = l:getlocal()
  local c = P.connect("127.0.0.1", port, { timeout = 5 })
  c:send "question"
  local answer = c:recv()
  c:finish(1)
  l:close()
  return answer, text(c)
end)
local q = P.queue()
s:add(function() return q:pop() end)
s:addloop(function() q:push(1) return false end)
local ok, why = call(s.run, s)
local joined, one, two = call(s.join, s, returns)
local failed = call(s.join, s, fails)
say(ok, why, joined, one, two, failed, told and text(told):find("arithmetic", 1, true) ~= nil)
]]

local function runs(names)
  local list = {}
  for name in names:gmatch "%a+" do list[#list + 1] = ("%q"):format(name) end
  local f = t.process(program:format(table.concat(list, ", ")), "exec 2>&1")
  t.equal((f:read "*a"):match "[^\n]*", "true\tnil\ttrue\t1\t2\tfalse\ttrue")
  f:close()
end

t.test("without debug", function() runs "debug" end)
t.test("without any", function() -- but tostring, which print calls in Lua 5.1
  runs("coroutine debug error getmetatable io math next os package pairs pcall rawequal rawget rawset require select " ..
       "setmetatable string table tonumber type unpack xpcall")
end)

t.finish()
