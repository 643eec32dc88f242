-- Takes all that one request needs of its key's limits, or nothing. The windows are those of the library `limits`, whose scripts
-- stand before this text as functions of KEYS and ARGV. Times in seconds of this server, so that replicas' clocks do not matter.
local requests, tokens_before, tokens_now, day, streams = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local most_requests, most_tokens, most_day, most_streams = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local request_cost, token_cost, lease, lease_s, window_s = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), 60

local clock = redis.call('time')
local now = clock[1] + clock[2] / 1000000
local midnight = (math.floor(now / 86400) + 1) * 86400

local function has_streams_left()
    redis.call('zremrangebyscore', streams, '-inf', now)
    return redis.call('zcard', streams) < most_streams
end

local refused = ''
local day_used = tonumber(redis.call('get', day) or 0)
if lease ~= '' and most_streams >= 0 and not has_streams_left() then
    refused = 'streams'
elseif token_cost > 0 and most_day >= 0 and day_used + token_cost > most_day then
    refused = 'day'
elseif request_cost > 0 and most_requests >= 0
    and not acquire_moving_window({requests}, {now, most_requests, window_s, request_cost}) then
    refused = 'requests'
elseif token_cost > 0 and most_tokens >= 0
    and not acquire_sliding_window({tokens_before, tokens_now}, {most_tokens, window_s, token_cost}) then
    refused = 'tokens'
end
if refused == '' then
    if token_cost > 0 and most_day >= 0 then
        day_used = redis.call('incrby', day, token_cost)
        redis.call('expireat', day, midnight)
    end
    if lease ~= '' and most_streams >= 0 then
        redis.call('zadd', streams, now + lease_s, lease)
        redis.call('expire', streams, math.ceil(lease_s))
    end
end

local made, oldest_in_the_way, newest = 0, 0, 0
if most_requests > 0 then
    made = (moving_window({requests}, {now - window_s, most_requests}) or {0, 0})[2]
    oldest_in_the_way = tonumber(redis.call('lindex', requests, most_requests - 1) or 0)
    newest = tonumber(redis.call('lindex', requests, 0) or 0)
end
local window = {0, 0, 0, 0}
if most_tokens >= 0 then
    window = sliding_window({tokens_before, tokens_now}, {window_s})
end
-- Numbers lose their fraction on the way out, and a missing value would end the list.
return {
    refused, string.format('%.6f', now), made, string.format('%.6f', oldest_in_the_way), string.format('%.6f', newest),
    tonumber(window[1] or 0), window[2], tonumber(window[3] or 0), window[4], day_used
}
