-- frame_loop.lua [host port path]: a game's main loop that draws 60 frames a second while something downloads.
--
--     lua frame_loop.lua                             downloads from a small server of its own
--     lua frame_loop.lua example.org 80 /            downloads over HTTP from there
--
-- All that a game needs is the call of sched:step(0) in each frame: it lets the network tasks do what they can do now,
-- and never waits.

local psocket = require "psocket"

local sched = psocket.scheduler()
local host, port, path = arg and arg[1], tonumber(arg and arg[2]), arg and arg[3] or "/"

-- A server to try it with: sends a megabyte in pieces, as a slow line would.
local listener
if not host then
  listener = assert(psocket.bind(sched, "127.0.0.1:0", function(s)
    s:read_until("\r\n\r\n")
    s:send("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1048576\r\n\r\n")
    for _ = 1, 32 do
      s:send(("."):rep(32768))
      sched:sleep(0.02)
    end
  end))
  host, port = listener:getlocal()
end

-- The download: an ordinary function that looks as if it waited. What it learns, the game reads from `download`.
local download = { received = 0 }
sched:add(function()
  local s, message = psocket.connect(host, port or 80, { timeout = 20 })
  if s then
    s:send("GET " .. path .. " HTTP/1.1\r\nHost: " .. host .. "\r\nConnection: close\r\n\r\n")
    local head
    head, message = s:read_until("\r\n\r\n")
    download.total = head and tonumber(head:match("\r\n[Cc]ontent%-[Ll]ength:%s*(%d+)"))
    while head do
      local data, why, name = s:recv()
      if not data then
        message = name ~= "CLOSED" and why or nil
        break
      end
      download.received = download.received + #data
    end
    s:close()
  end
  download.message, download.done = message, true
end)

-- The game.
local frames, slowest, frame = 0, 0, 1 / 60
local next_frame = psocket.now()
while not download.done do
  local before = psocket.now()
  sched:step(0) -- the network's share of the frame
  slowest = math.max(slowest, psocket.now() - before)

  frames = frames + 1 -- here the game would move and draw its things
  if frames % 15 == 0 then
    print(("frame %4d  %8d bytes%s"):format(frames, download.received,
          download.total and (" of %d"):format(download.total) or ""))
  end

  -- Wait for the next frame. A game engine does this by itself; here the network is served meanwhile.
  next_frame = next_frame + frame
  while psocket.now() < next_frame do sched:step(math.max(0, next_frame - psocket.now())) end
end
if listener then listener:close() end

if download.message then
  io.stderr:write("the download failed: ", download.message, "\n")
  os.exit(1)
end
print(("done: %d bytes in %d frames; the network took at most %.1f ms of a frame"):format(
      download.received, frames, slowest * 1000))
