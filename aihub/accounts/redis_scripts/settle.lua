-- Corrects a reservation by what was used, and gives its stream back. What was reserved is taken back from where it was counted:
-- this minute, the one before or none any more; what was used beyond it counts now.
local tokens_before, tokens_now, day, streams = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local difference, reserved_s, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local counts_minute, counts_day, window_s = ARGV[4] == '1', ARGV[5] == '1', 60

local clock = redis.call('time')
local now = clock[1] + clock[2] / 1000000
local midnight = (math.floor(now / 86400) + 1) * 86400
local age_ms = (now - reserved_s) * 1000 - 2  -- expiries are whole milliseconds

local function give_back(key, tokens)
    local counted = tonumber(redis.call('get', key) or 0)
    if counted > 0 then
        redis.call('decrby', key, math.min(counted, tokens))
    end
end

if lease ~= '' then
    redis.call('zrem', streams, lease)
end
if counts_minute and difference ~= 0 then
    sliding_window({tokens_before, tokens_now}, {window_s})  -- moves on to the window of this minute
    local left_ms = redis.call('pttl', tokens_now)
    local window_age_ms = left_ms > 0 and 2 * window_s * 1000 - left_ms or 0
    if difference > 0 and left_ms > 0 then
        redis.call('incrby', tokens_now, difference)
    elseif difference > 0 then
        redis.call('set', tokens_now, difference, 'PX', 2 * window_s * 1000)
    elseif age_ms <= window_age_ms then
        give_back(tokens_now, -difference)
    elseif age_ms <= window_age_ms + window_s * 1000 then
        give_back(tokens_before, -difference)
    end
end
if counts_day and difference > 0 then
    redis.call('incrby', day, difference)
    redis.call('expireat', day, midnight)
elseif counts_day and difference < 0 and reserved_s >= midnight - 86400 then
    give_back(day, -difference)
end
